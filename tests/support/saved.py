"""Checkpoints as transformers 5 saves them again, without running it: tensors, config, no more."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "model.safetensors"


def saved_by_transformers_5(
    source: Path, out: Path, edit: Callable[[dict[str, Tensor]], object] | None = None
) -> Path:
    """What `from_pretrained(source).save_pretrained(out)` leaves: no K/V of layers that share them,
    no flat rope numbers, keys sorted, no tokenizer, no manifest. `edit` changes the weights."""
    out.mkdir()
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    numbers = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
    ropes = {kind: {"rope_theta": text.pop(key)} for kind, key in numbers.items() if key in text}
    text["rope_parameters"] = {
        kind: {"rope_type": "default", **ropes.get(kind, text["rope_parameters"][kind])}
        for kind in numbers
    }
    config["transformers_version"] = "5.23.0"
    text["a_default_of_its_own"] = 3
    written = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (out / "config.json").write_text(written)
    first = text["num_hidden_layers"] - text["num_kv_shared_layers"]
    tensors: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors |= load_file(file)
    for name in list(tensors):
        layer = re.search(r"layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm)\.", name)
        if layer and int(layer[1]) >= first:
            del tensors[name]
    if edit:
        edit(tensors)
    save_file(tensors, out / FILE, metadata={"format": "pt"})
    return out


def quantised_by_torchao(tensors: dict[str, Tensor], modules: str) -> None:
    """Put int8 weights in place of some, as transformers 5.23 saves those of torchao 0.18.

    `modules`: a regular expression for the ends of their names.
    """
    for name in [name for name in tensors if re.search(rf"({modules})\.weight$", name)]:
        weight = tensors.pop(name).float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        stem = name.removesuffix("weight")
        tensors[f"{stem}_weight_qdata"] = (weight / scale).round().to(torch.int8)
        tensors[f"{stem}_weight_scale"] = scale
        tensors[f"{stem}_weight_zero_point"] = torch.zeros_like(scale, dtype=torch.int8)


TORCHAO = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}, "_version": 2}},
    "modules_to_not_convert": ["lm_head"],
}
"""The `quantization_config` beside them."""
