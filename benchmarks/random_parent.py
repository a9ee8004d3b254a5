"""A random text parent with E4B's layer structure and proportions at any hidden size."""

import shutil
from pathlib import Path

import torch
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from matformer_lab import tiny

E4B_HIDDEN_SIZE = 2048


def write_random_parent(folder: Path, hidden_size: int, dtype: torch.dtype) -> Path:
    """35 layers whose sizes are E4B's times hidden_size / 2048; token counts (window) stay.

    The tokenizer is the embedded parent's: its 1,024 tokens give prompts about as long as Gemma's
    would be, times 1.7.
    """
    scale = E4B_HIDDEN_SIZE // hidden_size
    e4b = Gemma3nTextConfig()
    config = Gemma3nTextConfig(
        hidden_size=hidden_size,
        intermediate_size=8 * hidden_size,
        head_dim=e4b.head_dim // scale,
        hidden_size_per_layer_input=e4b.hidden_size_per_layer_input // scale,
        laurel_rank=e4b.laurel_rank // scale,
        vocab_size=e4b.vocab_size_per_layer_input // scale,
        vocab_size_per_layer_input=e4b.vocab_size_per_layer_input // scale,
    )
    torch.manual_seed(0)
    model = Gemma3nForCausalLM(config)
    for layer in model.model.layers:
        # Zero in a fresh model, which would leave the per-layer inputs without effect.
        torch.nn.init.normal_(layer.altup.correct_output_scale)
        # Gemma 3n leaves the division of q k by sqrt(head_dim) to these weights. With ones,
        # attention picks single tokens, and rounding grows from layer to layer.
        torch.nn.init.constant_(layer.self_attn.q_norm.weight, config.head_dim**-0.5)
    model.to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny.model_dir() / name, folder / name)
    return folder
