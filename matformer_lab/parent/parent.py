"""The parent: a checkpoint's config and the layout of its tensors, without its weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.untrusted import open_regular
from matformer_lab.gemma3n import (
    EMBED_TOKENS,
    TextConfig,
    expected_tensors,
    is_multimodal,
    read_text_config,
    text_prefix,
)
from matformer_lab.parent.headers import TensorInfo

SINGLE_FILE: Final = "model.safetensors"

_GOOGLES: Final = ("gemma-3n-E4B", "gemma-3n-E4B-it")
_TEXT_DTYPES: Final = ("BF16", "F16", "F32")
_SAMPLE_BYTES = 4096
_SAMPLES_PER_FILE = 64


@dataclass(frozen=True)
class Parent:
    """A checked Gemma 3n checkpoint: every text tensor that its config calls for is there.

    `folder` is None for a Hub repository of which only config and headers were read.
    """

    ref: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    text: TextConfig = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    prefix: str
    folder: Path | None
    revision: str | None = None

    @property
    def multimodal(self) -> bool:
        return is_multimodal(self.config)

    @property
    def dtype(self) -> str:
        """The safetensors dtype of the text weights, e.g. BF16."""
        return self.tensors[self.prefix + EMBED_TOKENS].dtype

    @property
    def local(self) -> Path:
        """The folder with the weights."""
        if self.folder is None:
            raise InputError(f"{self.ref}: the weights are not downloaded")
        return self.folder

    @property
    def base_model(self) -> str | None:
        """The parent's Hub id, when its reference, its place in a Hub cache or its name tells."""
        if self.folder is None or self.revision is not None:
            return self.name
        if self.name in _GOOGLES:
            return f"google/{self.name}"
        home = self.folder.resolve()
        cached = home.parent.parent.name if home.parent.name == "snapshots" else ""
        return cached.removeprefix("models--").replace("--", "/", 1) or None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over config, tensor layout and sampled weights: what makes parents differ.

        Weights are sampled (64 windows of 4 KiB a file), since hashing 16 GB at every command
        would cost more than the command. Training moves all weights, so a sample tells two
        checkpoints apart; it is not a proof against tampering. A Hub parent counts its commit
        instead, so that it need not be downloaded.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name in sorted(self.tensors):
            info = self.tensors[name]
            digest.update(f"{name} {info.dtype} {info.shape} {info.file}\n".encode())
        if self.folder is None or self.revision is not None:
            digest.update(f"{self.name}@{self.revision}".encode())
            return digest.hexdigest()
        for file in sorted({info.file for info in self.tensors.values()}):
            with open_regular(self.folder / file) as weights:
                size = weights.seek(0, 2)
                for window in range(_SAMPLES_PER_FILE):
                    weights.seek(max(0, size - _SAMPLE_BYTES) * window // (_SAMPLES_PER_FILE - 1))
                    digest.update(weights.read(_SAMPLE_BYTES))
        return digest.hexdigest()


def build_parent(
    *,
    ref: str,
    name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    folder: Path | None,
    revision: str | None = None,
) -> Parent:
    """Check layout against config and make the `Parent`."""
    text = read_text_config(config, f"{ref}: config.json")
    prefix = text_prefix(tensors, ref)
    for expected in expected_tensors(text):
        full_name = prefix + expected.name
        info = tensors.get(full_name)
        if info is None:
            if expected.required:
                raise InputError(f"{ref}: tensor {full_name} is missing, config.json calls for it")
        elif info.shape != expected.shape:
            raise InputError(
                f"{ref}: tensor {full_name} has shape {list(info.shape)}, "
                f"config.json calls for {list(expected.shape)}"
            )
        elif info.dtype not in _TEXT_DTYPES:
            raise InputError(
                f"{ref}: tensor {full_name} is {info.dtype}; slicing reads "
                f"{', '.join(_TEXT_DTYPES)} checkpoints, not quantised ones"
            )
    return Parent(ref, name, config, text, dict(tensors), prefix, folder, revision)
