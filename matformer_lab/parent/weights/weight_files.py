"""Which files of a folder or repository are its weights.

One file, or shards with an index, under the published names; or, where those are missing, shards
without an index, a variant (`model.bf16.safetensors`) or one file of any name. What is left over
from an earlier save may lie beside them, so there can be several candidates.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.index import (
    INDEX_FILE,
    add_shard,
    check_index_complete,
    parse_index,
)

SINGLE_FILE: Final = "model.safetensors"
"""The weights of a checkpoint that is not sharded."""

_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.safetensors", re.ASCII)
_VARIANT_INDEX = re.compile(r"model\.safetensors\.index\.([\w-]+)\.json", re.ASCII)
_NOT_WEIGHTS = ("adapter_model", "optimizer", ".")


@dataclass(frozen=True)
class WeightFiles:
    """Files that together may be a checkpoint's weights.

    Attributes:
        name: What to call them in a message: the file, the index or the first of the shards.
        files: The weight files; empty if an index names them.
        index: The index file.
    """

    name: str
    files: tuple[str, ...] = ()
    index: str | None = None


def candidates(names: Iterable[str]) -> tuple[WeightFiles, ...]:
    """The sets of files that may be the weights, those with the published names first.

    Args:
        names: Of the files in the folder.

    Returns:
        Empty if there is no safetensors file. Files without a published name count only where none
        has one.

    Raises:
        InputError: Of shards without an index, some are missing.
    """
    names = sorted(names)
    found = [WeightFiles(SINGLE_FILE, (SINGLE_FILE,))] if SINGLE_FILE in names else []
    found += [WeightFiles(INDEX_FILE, index=INDEX_FILE)] if INDEX_FILE in names else []
    return tuple(found) or _without_published_names(names)


def _without_published_names(names: list[str]) -> tuple[WeightFiles, ...]:
    found = []
    indexed = set()
    for name in names:
        if match := _VARIANT_INDEX.fullmatch(name):
            found.append(WeightFiles(name, index=name))
            indexed.add(f"model.{match[1]}")
    sets: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if name.endswith(".safetensors") and not name.startswith(_NOT_WEIGHTS):
            match = _SHARD.fullmatch(name)
            sets.setdefault((match[1], match[3]) if match else (name,), []).append(name)
    for key, files in sets.items():
        if key[0] in indexed:
            continue
        if len(key) == 2 and len(files) != int(key[1]):
            there = {name.removesuffix(".safetensors").split("-")[-3] for name in files}
            missing = next(n for n in range(1, int(key[1]) + 1) if f"{n:05d}" not in there)
            raise InputError(
                f"{key[0]}-{missing:05d}-of-{key[1]}.safetensors is missing beside {files[0]}, and "
                "there is no index; download the shards again"
            )
        found.append(WeightFiles(files[0], tuple(files)))
    if len(found) > 1 and not indexed:  # shards with names of somebody's own
        files = [name for one in found for name in one.files]
        found.append(WeightFiles(f"{files[0]} and {len(files) - 1} more", tuple(files)))
    return tuple(found)


def read_weight_files(
    chosen: WeightFiles,
    header: Callable[[str], dict[str, TensorInfo]],
    index: Callable[[str], bytes],
    where: str,
) -> dict[str, TensorInfo]:
    """Every tensor of some weight files by the name in its file.

    Args:
        chosen: One of the `candidates`.
        header: Reads the header of a file; raises `InputError` if it is missing.
        index: Reads an index file.
        where: Names the folder or repository in an error.

    Raises:
        InputError: A file is broken, the index and the shards disagree, or two files without an
            index have a tensor of one name.
    """
    tensors: dict[str, TensorInfo] = {}
    if chosen.index is None:
        for file in chosen.files:
            for name, info in header(file).items():
                if name in tensors:
                    raise InputError(
                        f"{where}: tensor {name} is in {tensors[name].file} and in {file}, and no "
                        "index says which one counts; remove the file that is left over"
                    )
                tensors[name] = info
        return tensors
    at = f"{where}/{chosen.index}"
    weight_map = parse_index(index(chosen.index), at)
    headers = {file: header(file) for file in sorted(set(weight_map.values()))}
    for file, shard in headers.items():
        add_shard(tensors, shard, weight_map, file, at)
    check_index_complete(tensors, weight_map, at)
    return tensors
