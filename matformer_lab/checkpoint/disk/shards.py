"""How a checkpoint's tensors are laid out in files: shards, their headers, the index."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from matformer_lab.common.direct_file import ALIGNMENT
from matformer_lab.parent.headers import ITEM_SIZE, encode_header
from matformer_lab.parent.parent import SINGLE_FILE
from matformer_lab.slicing.plan import TensorPlan

_HEADER_ENTRY_BYTES: Final = 160
"""More than a header spends on one tensor besides its name."""
_PADDING: Final = ALIGNMENT + 64
"""More than a file spends besides its tensors and their entries."""


@dataclass(frozen=True)
class Shard:
    """One .safetensors file: its header and the tensors that follow it, back to back."""

    file: str
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    header: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def offsets(self) -> Iterable[tuple[TensorPlan, int]]:
        """Each tensor with the byte of the file at which it starts."""
        position = len(self.header)
        for tensor in self.tensors:
            yield tensor, position
            position += tensor.nbytes


def split(tensors: Sequence[TensorPlan], max_bytes: int) -> tuple[Shard, ...]:
    """Fill shards in order, no file over `max_bytes` unless one tensor alone is.

    Inside a shard, tensors of whole disk blocks come first (all large ones are), then the others,
    larger dtypes first: so every tensor starts aligned to its dtype and large ones to a block.
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
    """The file name of shard `number` (from 1) of `count`, as transformers gives it."""
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def make_shard(file: str, tensors: Iterable[TensorPlan]) -> Shard:
    """The shard `file` of these tensors, ordered for alignment."""
    ordered = tuple(sorted(tensors, key=lambda t: (t.nbytes % ALIGNMENT != 0, -ITEM_SIZE[t.dtype])))
    return Shard(file, ordered, encode_header((t.name, t.dtype, t.shape) for t in ordered))


def index_json(shards: Sequence[Shard]) -> bytes:
    """model.safetensors.index.json, as transformers writes it."""
    weight_map: Mapping[str, str] = {
        tensor.name: shard.file for shard in shards for tensor in shard.tensors
    }
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()
