"""The parent: a checkpoint's config and the layout of its tensors, without its weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.untrusted import open_regular, read_small
from matformer_lab.gemma3n import (
    TextConfig,
    expected_tensors,
    is_multimodal,
    read_text_config,
    text_prefix,
)
from matformer_lab.parent.headers import TensorInfo, read_header, strict_json

TINY: Final = "tiny"
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

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
        return self.tensors[self.prefix + "embed_tokens.weight"].dtype

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


def open_parent(ref: str) -> Parent:
    """Open PARENT: `tiny`, a local checkpoint folder, or a Hub id (`org/name`, `org/name@rev`).

    Reads config.json and safetensors headers, never weights. Raises `InputError` for anything
    that is not a whole Gemma 3n checkpoint.
    """
    if ref == TINY:
        from matformer_lab.tiny import model_dir

        return open_folder(model_dir(), ref=TINY, name=TINY)
    if _is_folder(Path(ref)):
        return open_folder(Path(ref), ref=ref)
    from matformer_lab.parent.hub import looks_like_repo_id, open_remote

    if looks_like_repo_id(ref):
        return open_remote(ref)
    raise InputError(
        f"{ref}: no such folder; a parent is a checkpoint folder, a Hub id (org/name) or `tiny`"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def open_folder(folder: Path, *, ref: str | None = None, name: str | None = None) -> Parent:
    """Open a local checkpoint folder."""
    try:
        config, tensors = read_config(folder), read_layout(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    return build_parent(
        ref=ref or str(folder),
        name=name or folder.resolve().name,
        config=config,
        tensors=tensors,
        folder=folder,
    )


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


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder, as written."""
    path = path_inside(folder, "config.json", str(folder))
    if not path.exists():
        raise InputError(f"{folder}: no config.json; is this a checkpoint folder?")
    return strict_json(read_small(path), str(path))


def read_layout(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder, from one file or from shards with an index."""
    if (folder / SINGLE_FILE).exists():
        return read_header(path_inside(folder, SINGLE_FILE, str(folder)))
    index = folder / INDEX_FILE
    if index.exists():
        return _read_sharded(folder, index)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise InputError(
            f"{folder}: only pickle weights (.bin, .pt) here, which can run code when read; "
            "convert them to safetensors first"
        )
    if (folder / ".gitattributes").exists() or any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
    raise InputError(f"{folder}: no safetensors weights found")


def _read_sharded(folder: Path, index: Path) -> dict[str, TensorInfo]:
    path_inside(folder, INDEX_FILE, str(folder))
    weight_map = parse_index(read_small(index), str(index))
    tensors: dict[str, TensorInfo] = {}
    shards = {
        file: path_inside(folder, file, str(index)) for file in sorted(set(weight_map.values()))
    }
    for file, path in shards.items():
        if not path.exists():
            raise InputError(f"{index}: shard {file} is missing")
    for file, path in shards.items():
        add_shard(tensors, read_header(path), weight_map, file, str(index))
    check_index_complete(tensors, weight_map, str(index))
    return tensors


def parse_index(data: bytes, where: str) -> dict[str, str]:
    """The `weight_map` of an index file, its file names checked to be plain names."""
    weight_map = strict_json(data, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{where}: weight_map must map tensor names to shard files")
    for name, file in weight_map.items():
        plain = (
            isinstance(file, str)
            and PurePosixPath(file).name == file
            and not set(file) & set("\\:\0")
            and file.endswith(".safetensors")
        )
        if not plain:
            raise InputError(
                f"{where}: {name} points at {file!r}; a shard is a .safetensors file in the "
                "same folder"
            )
    return weight_map


def add_shard(
    tensors: dict[str, TensorInfo],
    shard: Mapping[str, TensorInfo],
    weight_map: Mapping[str, str],
    file: str,
    where: str,
) -> None:
    """Merge one shard's tensors, each of which the index must place in that shard."""
    for name, info in shard.items():
        if weight_map.get(name) != file:
            raise InputError(
                f"{where}: tensor {name} is in {file}, the index says {weight_map.get(name)}"
            )
        tensors[name] = info


def check_index_complete(
    tensors: Mapping[str, TensorInfo], weight_map: Mapping[str, str], where: str
) -> None:
    """Every tensor that the index names must be in the shard it names."""
    for name, file in weight_map.items():
        if name not in tensors:
            raise InputError(f"{where}: tensor {name} should be in {file} but is not")


def path_inside(folder: Path, file: str, where: str) -> Path:
    """`folder/file`. Raises `InputError` when a symlink leads out of the folder.

    A Hub cache's snapshot folder consists of links into the `blobs` folder beside `snapshots`;
    those are the one kind of outward link that is meant.
    """
    path = folder / file
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{where}: {file} cannot be resolved ({one_line(error)})") from None
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InputError(f"{where}: {file} is a link that leads out of the checkpoint folder")
    return path
