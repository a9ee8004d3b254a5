"""Pico Gemma 3n checkpoints, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

PICO = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 64,
    "num_hidden_layers": 10,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_kv_shared_layers": 5,
    "laurel_rank": 4,
    "altup_num_inputs": 4,
    "sliding_window": 8,
    "max_position_embeddings": 256,
    "activation_sparsity_pattern": [0.9] * 4 + [0.0] * 6,
}


E4B_IN_MINIATURE = {
    **PICO,
    "num_hidden_layers": 35,
    "num_kv_shared_layers": 15,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
}
"""E4B's layer structure, so that every published slice applies."""


def write_parent(
    folder: Path,
    *,
    config: dict[str, Any] = PICO,
    dtype: str = "bfloat16",
    multimodal: bool = False,
    shard_size: str = "50GB",
    shared_kv: bool = True,
    seed: int = 0,
    scale: float = 0.2,
) -> Path:
    """A random Gemma 3n checkpoint, saved by transformers and completed as Google publishes it.

    `shared_kv`: add the redundant K/V tensors of sharing layers, which transformers 5 drops but
    published checkpoints carry. `multimodal`: the full naming and config, with small stand-ins for
    tower tensors (slicing copies them whatever they are).
    """
    import torch
    from safetensors.torch import load_file
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    torch.manual_seed(seed)
    text = Gemma3nTextConfig(**config)
    model = Gemma3nForCausalLM(text)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh models have altup.correct_output_scale = 0, which hides per-layer-input bugs.
            parameter.copy_(torch.randn_like(parameter) * scale)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    if shared_kv:
        kv = text.num_key_value_heads * text.head_dim
        for layer in range(
            text.num_hidden_layers - text.num_kv_shared_layers, text.num_hidden_layers
        ):
            attention = f"model.layers.{layer}.self_attn"
            for part in ("k_proj", "v_proj"):
                random = torch.randn(kv, text.hidden_size)
                tensors[f"{attention}.{part}.weight"] = random.to(getattr(torch, dtype))
            tensors[f"{attention}.k_norm.weight"] = torch.randn(text.head_dim).to(
                getattr(torch, dtype)
            )
    written = json.loads((folder / "config.json").read_text())
    # As Google's files have them; 4.5x and mlx-lm read these, transformers 5 drops them.
    written |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
    if multimodal:
        tensors = {
            name.replace("model.", "model.language_model.", 1): tensor
            for name, tensor in tensors.items()
        }
        for tower in ("model.vision_tower.timm_model.conv", "model.audio_tower.conformer.0.norm"):
            tensors[f"{tower}.weight"] = torch.randn(5, 3, 2).to(getattr(torch, dtype))
        tensors["model.embed_vision.embedding.weight"] = torch.randn(4, 6).to(getattr(torch, dtype))
        tensors["model.vision_tower.timm_model.count"] = torch.tensor([7], dtype=torch.int64)
        torch_dtype = written.pop("dtype", dtype)
        written = {
            "architectures": ["Gemma3nForConditionalGeneration"],
            "audio_config": {"model_type": "gemma3n_audio"},
            "image_token_id": 90,
            "model_type": "gemma3n",
            "text_config": {k: v for k, v in written.items() if k != "architectures"},
            "torch_dtype": torch_dtype,
            "vision_config": {"model_type": "gemma3n_vision"},
        }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    (folder / "model.safetensors").unlink()
    _save(folder, tensors, shard_size)
    for name in ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "LICENSE"):
        content = f"stand-in for {name}"
        (folder / name).write_text(json.dumps(content) if name.endswith(".json") else content)
    return folder


def _save(folder: Path, tensors: dict[str, Any], shard_size: str) -> None:
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(tensors, folder, max_shard_size=shard_size, metadata={"format": "pt"})
