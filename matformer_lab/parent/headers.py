"""safetensors headers, read without the weights and validated before anything believes them.

The format: 8 bytes little-endian header length, that many bytes of JSON, then the data. The checks
are those of the safetensors library plus the ones it leaves out (duplicate keys).
"""

import json
import math
import operator
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.direct_file import ALIGNMENT
from matformer_lab.common.errors import InputError
from matformer_lab.common.strict_json import strict_json
from matformer_lab.common.untrusted import open_regular, read_exactly

MAX_HEADER_BYTES: Final = 100_000_000  # the safetensors library's own limit

ITEM_SIZE: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes an element, by safetensors dtype name."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `file` relative to the checkpoint folder, `offset` in bytes in it."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZE[self.dtype]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one local .safetensors file. Raises `InputError` when the file is broken."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise InputError(f"{path}: {size} bytes is too short for a safetensors file")
        start = bytearray(8)
        read_exactly(file, memoryview(start), 0, path)
        header = bytearray(header_length(start, size, str(path)))
        read_exactly(file, memoryview(header), 8, path)
    return parse_header(bytes(header), file=path.name, file_size=size, where=str(path))


def header_length(first_8_bytes: bytes | bytearray, file_size: int, where: str) -> int:
    """Decode and check the length field."""
    length: int = struct.unpack("<Q", first_8_bytes)[0]
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{where}: header of {length:,} bytes is over the 100 MB limit")
    if length + 8 > file_size:
        raise InputError(
            f"{where}: header of {length:,} bytes is longer than the file ({file_size:,} bytes); "
            "the file is truncated or not a safetensors file"
        )
    return length


def parse_header(header: bytes, *, file: str, file_size: int, where: str) -> dict[str, TensorInfo]:
    """Tensors of a header, by name. Offsets must tile the data exactly, in any order."""
    data_start = 8 + len(header)
    if not header.startswith(b"{"):
        raise InputError(f"{where}: the header is not JSON; this is not a safetensors file")
    entries = strict_json(header, where)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{where}: __metadata__ must map strings to strings")
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        info, start, stop = _parse_entry(name, entry, file, data_start, where)
        tensors[name] = info
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            problem = "overlaps the tensor before it" if start < end else "leaves a hole before it"
            raise InputError(f"{where}: tensor {name!r} {problem} (data_offsets {start}, {stop})")
        end = stop
    if data_start + end != file_size:
        raise InputError(
            f"{where}: the header describes {data_start + end:,} bytes, the file has "
            f"{file_size:,}; it is truncated or has trailing bytes, download it again"
        )
    return tensors


def _parse_entry(
    name: str, entry: Any, file: str, data_start: int, where: str
) -> tuple[TensorInfo, int, int]:
    at = f"{where}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{at}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise InputError(f"{at}: unknown dtype {dtype!r}")
    if not _natural_numbers(shape):
        raise InputError(f"{at}: shape {shape!r} is not a list of sizes")
    if not _natural_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{at}: data_offsets {offsets!r} are not a start and a stop")
    if any(numel >= 2**63 for numel in accumulate(shape, operator.mul)):
        raise InputError(f"{at}: shape {shape!r} has more elements than can be counted")
    info = TensorInfo(dtype, tuple(shape), file, data_start + offsets[0])
    if info.nbytes != offsets[1] - offsets[0]:
        raise InputError(
            f"{at}: {dtype} of shape {shape} needs {info.nbytes} bytes, "
            f"data_offsets give {offsets[1] - offsets[0]}"
        )
    return info, offsets[0], offsets[1]


def _natural_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def encode_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The length field and header of a file that holds (name, dtype, shape) back to back.

    Padded with spaces, as the format allows, so that the data starts at a multiple of `ALIGNMENT`.
    `format: pt` is what transformers looks for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        stop = offset + math.prod(shape) * ITEM_SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    return struct.pack("<Q", len(encoded)) + encoded
