"""How a checkpoint's tensors are laid out in files: shards, their headers, the index."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from matformer_lab.common.units import ALIGNMENT
from matformer_lab.parent.weights.headers import ITEM_SIZE, encode_header
from matformer_lab.parent.weights.weight_files import SINGLE_FILE
from matformer_lab.slicing.plan import TensorPlan

_HEADER_ENTRY_BYTES: Final = 160
"""Upper bound on the header bytes of one tensor, not counting its name."""
_PADDING: Final = ALIGNMENT + 64
"""Upper bound on the bytes of a file that belong to no tensor and no header entry."""


class PlacedTensor(NamedTuple):
    """A tensor and the byte offset in its file at which its data starts."""

    tensor: TensorPlan
    offset: int


@dataclass(frozen=True)
class Shard:
    """One .safetensors file.

    Attributes:
        file: The file name.
        tensors: The tensors in the order of their data, which has no gaps.
        header: The encoded safetensors header, including its length prefix and padding.
    """

    file: str
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    header: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Size of the whole file in bytes."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def offsets(self) -> Iterator[PlacedTensor]:
        """Every tensor with its offset in the file."""
        position = len(self.header)
        for tensor in self.tensors:
            yield PlacedTensor(tensor, position)
            position += tensor.nbytes


def split(tensors: Sequence[TensorPlan], max_bytes: int) -> tuple[Shard, ...]:
    """Distribute tensors over shards, filling the shards in order.

    Inside a shard, tensors that are a multiple of the disk block size come first (all large ones
    are), then the others, larger dtypes first. So every tensor starts aligned to its dtype, and
    large ones to a block.

    Args:
        tensors: The tensors in the order in which shards are filled.
        max_bytes: Maximum file size. Only a file with a single tensor may exceed it.

    Returns:
        The shards, named as transformers names them.
    """
    groups: list[list[TensorPlan]] = [[]]
    size = _PADDING
    for tensor in tensors:
        share = tensor.nbytes + len(tensor.name) + _HEADER_ENTRY_BYTES
        if groups[-1] and size + share > max_bytes:
            groups.append([])
            size = _PADDING
        groups[-1].append(tensor)
        size += share
    shards = []
    for number, group in enumerate(groups, 1):
        shards.append(make_shard(shard_name(number, len(groups)), group))
    return tuple(shards)


def shard_name(number: int, count: int) -> str:
    """The file name that transformers gives to shard `number` (from 1) of `count`."""
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def make_shard(file: str, tensors: Iterable[TensorPlan]) -> Shard:
    """A shard named `file` with these tensors, ordered for alignment (see `split`)."""
    ordered = tuple(sorted(tensors, key=lambda t: (t.nbytes % ALIGNMENT != 0, -ITEM_SIZE[t.dtype])))
    return Shard(file, ordered, encode_header((t.name, t.dtype, t.shape) for t in ordered))


def index_json(shards: Sequence[Shard]) -> bytes:
    """The contents of model.safetensors.index.json, as transformers writes it."""
    weight_map: Mapping[str, str] = {
        tensor.name: shard.file for shard in shards for tensor in shard.tensors
    }
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()
