"""Checkpoints as transformers 5 saves them again, without running it: tensors, config, no more."""

import json
import re
from collections.abc import Callable
from pathlib import Path

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
