"""Copies of a parent that have an LM head of their own."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

HEAD = "lm_head.weight"


def with_head(
    source: Path, folder: Path, flags: dict[str, Any] | None, *, equal: bool = False
) -> Path:
    """A copy of a parent with a head, and `flags` for `tie_word_embeddings`: `top` and `text`."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    tensors = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    embed = next(v for k, v in tensors.items() if k.endswith("embed_tokens.weight"))
    if flags is not None:
        other = torch.randn(embed.shape, generator=torch.Generator().manual_seed(7)).to(embed.dtype)
        tensors[HEAD] = embed.clone() if equal else other
    for part in (config, config.get("text_config", {})):
        part.pop("tie_word_embeddings", None)
    flags = flags or {}
    if "top" in flags:
        config["tie_word_embeddings"] = flags["top"]
    if "text" in flags:
        config["text_config"]["tie_word_embeddings"] = flags["text"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
