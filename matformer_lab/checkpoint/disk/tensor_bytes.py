"""The bytes of a child's tensor, cut from the parent's file in bounded pieces.

The one statement of the cut in bytes: the writer writes what this yields, the verifier compares
with it.
"""

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from matformer_lab.common.direct_file import ALIGNMENT
from matformer_lab.common.untrusted import open_regular, read_exactly
from matformer_lab.parent.headers import ITEM_SIZE
from matformer_lab.slicing.plan import TensorPlan

CHUNK_BYTES: Final = 8 << 20
"""Bytes read at a time: large enough for the disk, small enough to stay in the CPU's cache."""


Bytes = npt.NDArray[np.uint8]


class Scratch:
    """Buffers reused for every piece, so that memory does not grow with the model.

    They start at a multiple of `ALIGNMENT` in memory, as direct disk writes ask for.
    """

    def __init__(self, size: int = CHUNK_BYTES) -> None:
        self.size = size
        self._buffers: dict[str, Bytes] = {}

    def buffer(self, use: str, size: int) -> Bytes:
        """`size` bytes of the buffer named `use`; grows only for a row larger than a chunk."""
        held = self._buffers.get(use)
        if held is None or held.size < size:
            held = self._buffers[use] = _aligned(max(size, self.size))
        return held[:size]


def _aligned(size: int) -> Bytes:
    roomy = np.empty(size + ALIGNMENT, dtype=np.uint8)
    skip = -roomy.ctypes.data % ALIGNMENT
    return roomy[skip : skip + size]


_local = threading.local()


def thread_scratch() -> Scratch:
    """This thread's own buffers."""
    if not hasattr(_local, "scratch"):
        _local.scratch = Scratch()
    scratch: Scratch = _local.scratch
    return scratch


def child_bytes(folder: Path, tensor: TensorPlan, scratch: Scratch) -> Iterator[memoryview]:
    """The child tensor's bytes in order. Each piece is valid until the next is asked for.

    All pieces but the last are multiples of `ALIGNMENT` long, unless a row is over a chunk. Raises
    `InputError` when the parent's file cannot be read or is shorter than its header said.
    """
    path = folder / tensor.info.file
    with open_regular(path) as file:
        if tensor.axis == 1:
            yield from _columns(file, path, tensor, scratch)
        else:
            for start, stop in _byte_ranges(tensor):
                yield from _span(file, path, start, stop, scratch)


def _byte_ranges(tensor: TensorPlan) -> Iterator[tuple[int, int]]:
    """Where the whole tensor, or its selected rows, lie in the file."""
    info = tensor.info
    if tensor.axis is None:
        yield info.offset, info.offset + info.nbytes
        return
    row = info.nbytes // info.shape[0]
    for start, stop in tensor.ranges:
        yield info.offset + start * row, info.offset + stop * row


def _span(
    file: BinaryIO, path: Path, start: int, stop: int, scratch: Scratch
) -> Iterator[memoryview]:
    for position in range(start, stop, scratch.size):
        piece = scratch.buffer("read", min(scratch.size, stop - position)).data
        read_exactly(file, piece, position, path)
        _read_ahead(file, position + len(piece), min(scratch.size, stop - position - len(piece)))
        yield piece


def _columns(
    file: BinaryIO, path: Path, tensor: TensorPlan, scratch: Scratch
) -> Iterator[memoryview]:
    """Whole rows are read and the selected columns kept: disks prefer one long read."""
    info = tensor.info
    item = ITEM_SIZE[info.dtype]
    rows, row_bytes = info.shape[0], info.shape[1] * item
    kept_bytes = tensor.shape[1] * item
    step = ALIGNMENT // math.gcd(kept_bytes, ALIGNMENT)
    rows_at_once = max(1, scratch.size // row_bytes // step * step or scratch.size // row_bytes)
    for first in range(0, rows, rows_at_once):
        count = min(rows_at_once, rows - first)
        position = info.offset + first * row_bytes
        whole = scratch.buffer("read", count * row_bytes)
        read_exactly(file, whole.data, position, path)
        after = min(rows_at_once, rows - first - count)
        _read_ahead(file, position + whole.size, after * row_bytes)
        cut = scratch.buffer("cut", count * kept_bytes)
        source, target = whole.reshape(count, row_bytes), cut.reshape(count, kept_bytes)
        at = 0
        for start, stop in tensor.ranges:
            size = (stop - start) * item
            target[:, at : at + size] = source[:, start * item : stop * item]
            at += size
        yield cut.data


def _read_ahead(file: BinaryIO, start: int, size: int) -> None:
    """Ask the kernel to fetch the next piece while this one is used, where it can be asked."""
    if size and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
