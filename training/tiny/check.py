"""Is the training forward the stock model's? Logits of both, for the full model, mixes and a block
skip.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from training.tiny import export, network, slices
from training.tiny.network import Params, Shape

PER_LAYER = ("embed_tokens_per_layer.weight", "per_layer_model_projection.weight")


def stock(
    params: Params, shape: Shape, widths: list[int], skipped: tuple[int, ...]
) -> Gemma3nForCausalLM:
    """The slice cut for real and loaded by transformers.

    Written apart from the package's slicing, so that each can vouch for the other.
    """
    kept = [n for n in range(shape.layers) if n not in skipped]
    flat = export.tensors(params)
    child: dict[str, Tensor] = {}
    for name, tensor in flat.items():
        if name.startswith("model.layers."):
            layer = int(name.split(".")[2])
            if layer not in skipped:
                renumbered = name.replace(f".{layer}.", f".{kept.index(layer)}.", 1)
                child[renumbered] = leading(name, tensor, widths[layer])
        elif name.endswith(PER_LAYER):
            axis = 1 if "embed" in name else 0
            blocks = torch.split(tensor, shape.per_layer, dim=axis)
            child[name] = torch.cat([blocks[n] for n in kept], dim=axis)
        else:
            child[name] = tensor
    values = export.config(shape, [shape.ffn] * shape.layers, "float32")
    for key, per_layer in (
        ("layer_types", values["layer_types"]),
        ("activation_sparsity_pattern", values["activation_sparsity_pattern"]),
        ("intermediate_size", widths),
    ):
        assert isinstance(per_layer, list)
        values[key] = [per_layer[n] for n in kept]
    values["num_hidden_layers"] = len(kept)
    values["num_kv_shared_layers"] = sum(n >= shape.first_shared for n in kept)
    with tempfile.TemporaryDirectory() as folder:
        export.dump(Path(folder, "config.json"), values)
        config = Gemma3nTextConfig.from_pretrained(folder)
    model = Gemma3nForCausalLM(config)
    model.eval()  # type: ignore[no-untyped-call]
    missing, unexpected = model.load_state_dict(child, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert all(".k_" in n or ".v_" in n for n in unexpected), unexpected
    return model


def leading(name: str, tensor: Tensor, width: int) -> Tensor:
    """The first `width` neurons of an FFN matrix; any other tensor as it is."""
    if "mlp.gate_proj" in name or "mlp.up_proj" in name:
        return tensor[:width]
    return tensor[:, :width] if "mlp.down_proj" in name else tensor


@torch.no_grad()
def differences(params: Params, shape: Shape, length: int = 96) -> dict[str, float]:
    """Largest absolute logit difference per slice, in fp32."""
    rng = np.random.default_rng(0)
    net = network.Network(shape, compiled=False)
    ids = torch.from_numpy(rng.integers(shape.vocab, size=(2, length)))
    step = shape.ffn // slices.STEPS
    mixed = (rng.integers(1, 9, size=shape.layers) * step).tolist()
    cases: dict[str, tuple[list[int], tuple[int, ...]]] = {
        "full": ([shape.ffn] * shape.layers, ()),
        "eighth": ([step] * shape.layers, ()),
        "mixed": (mixed, ()),
        "e2b": ([4 * step] * shape.layers, slices.SKIPPED),
    }
    out = {}
    for name, (widths, skipped) in cases.items():
        skips = torch.zeros(2, shape.layers)
        skips[:, list(skipped)] = 1.0
        hidden = net.hidden(params, ids, torch.tensor([widths] * 2), skips)
        ours = network.logits(params, shape, hidden)
        theirs = stock(params, shape, widths, skipped)(input_ids=ids, use_cache=False).logits
        out[name] = float((ours - theirs).abs().max())
    return out
