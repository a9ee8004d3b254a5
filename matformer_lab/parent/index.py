"""model.safetensors.index.json: which shard holds which tensor."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.strict_json import strict_json
from matformer_lab.parent.headers import TensorInfo

INDEX_FILE: Final = "model.safetensors.index.json"


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
