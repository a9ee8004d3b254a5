"""model.safetensors.index.json, which says in which shard each tensor is."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.parent.weights.headers import TensorInfo

INDEX_FILE: Final = "model.safetensors.index.json"


def parse_index(data: bytes, where: str) -> dict[str, str]:
    """The shard file of each tensor, by tensor name.

    Args:
        data: The index file's content.
        where: Names the index file in an error.

    Returns:
        The index's `weight_map`, every value of which is the plain name of a .safetensors file
        (`./` before it is left out).

    Raises:
        InputError: The index is not valid, or points outside its own folder.
    """
    weight_map = strict_json(data, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{where}: weight_map must map tensor names to shard files")
    for name, written in weight_map.items():
        file = written.removeprefix("./") if isinstance(written, str) else written
        plain = (
            isinstance(file, str)
            and PurePosixPath(file).name == file
            and not set(file) & set("\\:\0")
            and file.endswith(".safetensors")
        )
        if not plain:
            raise InputError(
                f"{where}: {name} points at {written!r}; a shard is a .safetensors file in the "
                "same folder"
            )
        weight_map[name] = file
    return weight_map


def add_shard(
    tensors: dict[str, TensorInfo],
    shard: Mapping[str, TensorInfo],
    weight_map: Mapping[str, str],
    file: str,
    where: str,
) -> None:
    """Add a shard's tensors to those of the checkpoint.

    Args:
        tensors: The checkpoint's tensors by name; the shard's are added to it.
        shard: The shard's tensors by name.
        weight_map: What `parse_index` returned.
        file: The shard's file name.
        where: Names the index file in an error.

    Raises:
        InputError: The index places one of the shard's tensors elsewhere, or nowhere.
    """
    for name, info in shard.items():
        if weight_map.get(name) != file:
            said = f"says {weight_map[name]}" if name in weight_map else "does not name it"
            raise InputError(f"{where}: tensor {name} is in {file}, but the index {said}")
        tensors[name] = info


def check_index_complete(
    tensors: Mapping[str, TensorInfo], weight_map: Mapping[str, str], where: str
) -> None:
    """Check that the shards hold every tensor of the index.

    Raises:
        InputError: A tensor of the index is in no shard.
    """
    for name, file in weight_map.items():
        if name not in tensors:
            raise InputError(f"{where}: tensor {name} should be in {file}, but is not there")
