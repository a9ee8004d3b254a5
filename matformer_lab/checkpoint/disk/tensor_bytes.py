"""The bytes of a child's tensor, read from the parent's file in pieces of bounded size.

This is the only place where a tensor's cut becomes byte positions: the writer writes what
`child_bytes` yields, and the verifier compares files with it.
"""

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from matformer_lab.common.files.untrusted import open_regular, read_exactly
from matformer_lab.common.spans import Span
from matformer_lab.common.units import ALIGNMENT
from matformer_lab.parent.weights.headers import ITEM_SIZE
from matformer_lab.slicing.plan import TensorPlan

CHUNK_BYTES: Final = 8 << 20
"""Bytes read at a time: large enough for the disk, small enough to stay in the CPU's cache."""

Bytes = npt.NDArray[np.uint8]


class Scratch:
    """Buffers that are reused for every piece, so that memory does not grow with the model.

    They start at a multiple of `ALIGNMENT` in memory, as direct disk writes require.

    Attributes:
        size: Minimum size of a buffer, and the usual size of a piece, in bytes.
    """

    def __init__(self, size: int = CHUNK_BYTES) -> None:
        self.size = size
        self._buffers: dict[str, Bytes] = {}

    def buffer(self, use: str, size: int) -> Bytes:
        """The first `size` bytes of the buffer named `use`.

        A buffer grows only for a tensor row that is larger than a chunk.
        """
        held = self._buffers.get(use)
        if held is None or held.size < size:
            held = self._buffers[use] = _aligned(max(size, self.size))
        return held[:size]


def _aligned(size: int) -> Bytes:
    oversized = np.empty(size + ALIGNMENT, dtype=np.uint8)
    skip = -oversized.ctypes.data % ALIGNMENT
    return oversized[skip : skip + size]


_local = threading.local()


def thread_scratch() -> Scratch:
    """The calling thread's own buffers."""
    if not hasattr(_local, "scratch"):
        _local.scratch = Scratch()
    scratch: Scratch = _local.scratch
    return scratch


def child_bytes(folder: Path, tensor: TensorPlan, scratch: Scratch) -> Iterator[memoryview]:
    """Read the bytes of a child's tensor, in order.

    Args:
        folder: The parent's folder.
        tensor: The tensor and its cut from the parent's.
        scratch: Buffers for the pieces.

    Yields:
        Pieces that stay valid until the next one is requested. The length of every piece but the
        last is a multiple of `ALIGNMENT`, unless a row is larger than a chunk.

    Raises:
        InputError: When the parent's file cannot be read or is shorter than its header says.
    """
    path = (tensor.origin.local if tensor.origin else folder) / tensor.info.file
    with open_regular(path) as file:
        if tensor.axis == 1:
            yield from _columns(file, path, tensor, scratch)
        else:
            for start, stop in _byte_ranges(tensor):
                yield from _span(file, path, start, stop, scratch)


def _byte_ranges(tensor: TensorPlan) -> Iterator[Span]:
    """The bytes of the file that hold the whole tensor, or its selected rows."""
    info = tensor.info
    if tensor.axis is None:
        yield info.offset, info.offset + info.nbytes
        return
    row_bytes = info.nbytes // info.shape[0]
    for start, stop in tensor.ranges:
        yield info.offset + start * row_bytes, info.offset + stop * row_bytes


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
    """Read whole rows and keep the selected columns: one long read beats many short ones."""
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
        kept = scratch.buffer("kept", count * kept_bytes)
        source, target = whole.reshape(count, row_bytes), kept.reshape(count, kept_bytes)
        at = 0
        for start, stop in tensor.ranges:
            size = (stop - start) * item
            target[:, at : at + size] = source[:, start * item : stop * item]
            at += size
        yield kept.data


def _read_ahead(file: BinaryIO, start: int, size: int) -> None:
    """Where supported, ask the kernel to read the next piece while this one is processed."""
    if size and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
