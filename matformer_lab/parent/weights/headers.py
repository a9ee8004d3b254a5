"""safetensors headers, read without the weights and validated before anything believes them.

The format: 8 bytes little-endian header length, that many bytes of JSON, then the data.

Why this exists beside the safetensors library:

- It reads a header without the weights, by range from the Hub as well as from disk. The library
  opens whole local files.
- It tells where in a file each tensor lies, which the library keeps to itself. Slices are copied
  from there in pieces, and fetched from the Hub by range.
- It validates a header before anything believes it: duplicate keys, overlaps, holes, trailing
  bytes. These checks are the library's and more: safetensors 0.8.0 accepts duplicate JSON keys (of
  two tensors with one name it keeps the last) and unknown keys in a tensor's entry.

tests/parent/test_headers.py compares the dtypes, and tests/end_to_end/test_fuzz.py the verdicts,
with those of the installed library.
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

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import open_regular, read_exactly, refuse_stand_in
from matformer_lab.common.units import ALIGNMENT

MAX_HEADER_BYTES: Final = 100_000_000
"""The safetensors library's own limit."""

_PRINTABLE: Final = frozenset(b"\t\r\n" + bytes(range(0x20, 0x7F)))

ITEM_BITS: Final = {
    "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits an element, by safetensors dtype name: every dtype of safetensors 0.8.0."""

ITEM_SIZE: Final = {dtype: -(-bits // 8) for dtype, bits in ITEM_BITS.items()}
"""Bytes an element, by safetensors dtype name.

Rounded up for dtypes of less than a byte (F4, F6), whose elements are packed: `data_bytes` counts
their tensors."""


def data_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor's data in a file.

    Elements of less than a byte are packed without gaps. As in the safetensors library, a tensor's
    elements must fill whole bytes; `parse_header` refuses those that do not.
    """
    return math.prod(shape) * ITEM_BITS[dtype] // 8


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in a checkpoint.

    Attributes:
        dtype: A safetensors dtype name, e.g. BF16.
        shape: The tensor's sizes.
        file: The file's name in the checkpoint folder.
        offset: Where the tensor's data begins, in bytes from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return data_bytes(self.dtype, self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one local .safetensors file, by name.

    Raises:
        InputError: The file cannot be read, or its header is not valid.
    """
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
    """The length of a file's JSON header in bytes.

    Args:
        first_8_bytes: The file's length field.
        file_size: In bytes.
        where: Names the file in an error.

    Raises:
        InputError: The length is over `MAX_HEADER_BYTES`, or over what the file has; or the file is
            a pointer, a web page or some other text.
    """
    refuse_stand_in(bytes(first_8_bytes), where)
    if all(byte in _PRINTABLE for byte in first_8_bytes):  # of a length, half are zero
        shown = bytes(first_8_bytes).decode("ascii")
        raise InputError(
            f"{where}: is text ({shown!r}...), not a safetensors file; download it again"
        )
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
    """The tensors that a header describes, by name.

    Args:
        header: The JSON, without the length field.
        file: The file's name, for the tensors' `file`.
        file_size: In bytes.
        where: Names the file in an error.

    Raises:
        InputError: The header is not valid JSON, an entry is wrong, or the tensors do not cover the
            file's data exactly, each byte once.
    """
    data_start = 8 + len(header)
    if not header.startswith(b"{"):
        raise InputError(f"{where}: the header is not JSON; this is not a safetensors file")
    entries = strict_json(header, where)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{where}: __metadata__ must map strings to strings")
    tensors: dict[str, TensorInfo] = {}
    for name, entry in entries.items():
        tensors[name] = _parse_entry(name, entry, file, data_start, where)
    end = data_start
    # An empty tensor at another's offset comes before it.
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != end:
            problem = "overlaps the tensor" if info.offset < end else "leaves a hole"
            start = info.offset - data_start
            raise InputError(
                f"{where}: tensor {name!r} {problem} before it "
                f"(data_offsets {start}, {start + info.nbytes})"
            )
        end += info.nbytes
    if end != file_size:
        raise InputError(
            f"{where}: the header describes {end:,} bytes, but the file has {file_size:,}; it is "
            "truncated or has trailing bytes, so download it again"
        )
    return tensors


def _parse_entry(name: str, entry: Any, file: str, data_start: int, where: str) -> TensorInfo:
    at = f"{where}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{at}: its entry must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise InputError(f"{at}: unknown dtype {dtype!r}")
    if not _natural_numbers(shape):
        raise InputError(f"{at}: shape {shape!r} is not a list of sizes")
    if not _natural_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{at}: data_offsets {offsets!r} is not a start and a stop")
    if any(numel >= 2**63 for numel in accumulate(shape, operator.mul)):
        raise InputError(f"{at}: shape {shape!r} has more elements than can be counted")
    info = TensorInfo(dtype, tuple(shape), file, data_start + offsets[0])
    if info.numel * ITEM_BITS[dtype] % 8:
        raise InputError(f"{at}: {dtype} of shape {shape} does not fill whole bytes")
    if info.nbytes != offsets[1] - offsets[0]:
        raise InputError(
            f"{at}: {dtype} of shape {shape} needs {info.nbytes} bytes, "
            f"but data_offsets give it {offsets[1] - offsets[0]}"
        )
    return info


def _natural_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def encode_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The length field and header of a file.

    The header is padded with spaces, as the format allows, so that the data starts at a multiple of
    `ALIGNMENT`. Its metadata is `format: pt`, which transformers asks for.

    Args:
        tensors: (name, dtype, shape) of each tensor, in the order of their data in the file, which
            has no gaps.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        stop = offset + data_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    return struct.pack("<Q", len(encoded)) + encoded
