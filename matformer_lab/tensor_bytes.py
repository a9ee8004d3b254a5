"""The bytes of a child's tensor, cut from the parent's file in bounded pieces.

The one statement of the cut in bytes: the writer writes what this yields, the verifier compares
with it.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from matformer_lab.errors import InputError
from matformer_lab.headers import ITEM_SIZE
from matformer_lab.plan import TensorPlan

CHUNK_BYTES: Final = 8 << 20
"""Bytes read at a time: large enough for the disk, small enough to stay in the CPU's cache."""


Bytes = npt.NDArray[np.uint8]


class Scratch:
    """Buffers reused for every piece, so that memory does not grow with the model."""

    def __init__(self, size: int = CHUNK_BYTES) -> None:
        self.size = size
        self._buffers: dict[str, Bytes] = {}

    def buffer(self, use: str, size: int) -> Bytes:
        """`size` bytes of the buffer named `use`; grows only for a row larger than a chunk."""
        held = self._buffers.get(use)
        if held is None or held.size < size:
            held = self._buffers[use] = np.empty(max(size, self.size), dtype=np.uint8)
        return held[:size]


_local = threading.local()


def thread_scratch() -> Scratch:
    """This thread's own buffers."""
    if not hasattr(_local, "scratch"):
        _local.scratch = Scratch()
    scratch: Scratch = _local.scratch
    return scratch


def child_bytes(folder: Path, tensor: TensorPlan, scratch: Scratch) -> Iterator[memoryview]:
    """The child tensor's bytes in order. Each piece is valid until the next is asked for.

    Raises `InputError` when the parent's file is shorter than its header said.
    """
    path = folder / tensor.info.file
    with path.open("rb", buffering=0) as file:
        if tensor.axis == 1:
            yield from _columns(file.fileno(), path, tensor, scratch)
        else:
            for start, stop in _byte_ranges(tensor):
                yield from _span(file.fileno(), path, start, stop, scratch)


def _byte_ranges(tensor: TensorPlan) -> Iterator[tuple[int, int]]:
    """Where the whole tensor, or its selected rows, lie in the file."""
    info = tensor.info
    if tensor.axis is None:
        yield info.offset, info.offset + info.nbytes
        return
    row = info.nbytes // info.shape[0]
    for start, stop in tensor.ranges:
        yield info.offset + start * row, info.offset + stop * row


def _span(fd: int, path: Path, start: int, stop: int, scratch: Scratch) -> Iterator[memoryview]:
    _advise(fd, start, stop - start)
    for position in range(start, stop, scratch.size):
        piece = scratch.buffer("read", min(scratch.size, stop - position)).data
        read_exactly(fd, piece, position, path)
        yield piece


def _columns(fd: int, path: Path, tensor: TensorPlan, scratch: Scratch) -> Iterator[memoryview]:
    """Whole rows are read and the selected columns kept: disks prefer one long read."""
    info = tensor.info
    item = ITEM_SIZE[info.dtype]
    rows, row_bytes = info.shape[0], info.shape[1] * item
    kept_bytes = tensor.shape[1] * item
    _advise(fd, info.offset, info.nbytes)
    rows_at_once = max(1, scratch.size // row_bytes)
    for first in range(0, rows, rows_at_once):
        count = min(rows_at_once, rows - first)
        whole = scratch.buffer("read", count * row_bytes)
        read_exactly(fd, whole.data, info.offset + first * row_bytes, path)
        cut = scratch.buffer("cut", count * kept_bytes)
        source, target = whole.reshape(count, row_bytes), cut.reshape(count, kept_bytes)
        at = 0
        for start, stop in tensor.ranges:
            size = (stop - start) * item
            target[:, at : at + size] = source[:, start * item : stop * item]
            at += size
        yield cut.data


def read_exactly(fd: int, piece: memoryview, position: int, path: Path) -> None:
    """Fill `piece` from `position`; a file that ends early is the user's problem to know."""
    done = 0
    while done < len(piece):
        count = os.preadv(fd, [piece[done:]], position + done)
        if not count:
            raise InputError(f"{path}: ends at byte {position + done:,}, its header promises more")
        done += count


def _advise(fd: int, start: int, size: int) -> None:
    """Ask the kernel to read ahead, where it can be asked."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, size, os.POSIX_FADV_SEQUENTIAL)
