"""Towers of E4B's shapes for a small checkpoint, all zeros: for a runtime that wants to see them.

A text prompt does not go through them. The file is sparse, and shared by hard links.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import Gemma3nAudioConfig, Gemma3nConfig, Gemma3nVisionConfig

from matformer_lab.parent.weights.headers import data_bytes

_FILE = "model-towers.safetensors"


def write_towers(path: Path, layout: Path, hidden_size: int) -> Path:
    """Write the towers' weights.

    Args:
        path: The file to write.
        layout: The shapes of E4B's tensors by name, as JSON.
        hidden_size: The small checkpoint's, which the towers' outputs are projected to.
    """
    header: dict[str, Any] = {}
    stop = 0
    for name, shape in json.loads(layout.read_text()).items():
        if name.startswith("model.language_model."):
            continue
        if name.endswith("embedding_projection.weight"):
            shape[0] = hidden_size
        start, stop = stop, stop + data_bytes("BF16", shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + stop)
    return path


def with_towers(folder: Path, out: Path, towers: Path) -> Path:
    """A copy of a checkpoint, with these towers in place of its own.

    Args:
        folder: A full checkpoint with one weight file.
        out: The folder to write.
        towers: From `write_towers`, on the same filesystem.
    """
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    whole = load_file(folder / "model.safetensors")
    text = {k: v for k, v in whole.items() if k.startswith("model.language_model.")}
    save_file(text, out / "model-text.safetensors", metadata={"format": "pt"})
    os.link(towers, out / _FILE)
    with towers.open("rb") as file:
        names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    weight_map = {**dict.fromkeys(text, "model-text.safetensors"), **dict.fromkeys(names, _FILE)}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    config = Gemma3nConfig().to_dict() | json.loads((out / "config.json").read_text())
    config["image_token_id"] = Gemma3nConfig().image_token_id  # a word of the prompt's otherwise
    config["vision_config"] = Gemma3nVisionConfig().to_dict()
    config["audio_config"] = Gemma3nAudioConfig().to_dict()
    (out / "config.json").write_text(json.dumps(config))
    return out
