"""Tensors of a checkpoint compared byte by byte, or with their digests."""

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from matformer_lab.checkpoint.disk.tensor_bytes import Bytes, child_bytes, thread_scratch
from matformer_lab.checkpoint.manifest import (
    tensor_digest,
)
from matformer_lab.common.progress import Advance
from matformer_lab.common.untrusted import open_regular, read_exactly
from matformer_lab.parent.headers import TensorInfo
from matformer_lab.slicing.plan import TensorPlan

_T = TypeVar("_T")


_THREADS: Final = 4


class Compared:
    """Answers of earlier comparisons, by the file on disk, the place in it, and the question."""

    def __init__(self) -> None:
        self._known: dict[Hashable, str | None] = {}

    def once(
        self, key: tuple[Path, TensorInfo, Hashable], compare: Callable[[], str | None]
    ) -> str | None:
        """`compare()`, or what it said when the same bytes were asked about before."""
        folder, info, question = key
        stat = (folder / info.file).stat()
        asked = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, info.offset, info.nbytes, question)
        if asked not in self._known:
            self._known[asked] = compare()
        return self._known[asked]


def wrong_digest(folder: Path, tensor: TensorPlan, expected: str, advance: Advance) -> str | None:
    digest = tensor_digest(tensor.dtype, tensor.shape)
    for piece in child_bytes(folder, tensor, thread_scratch()):
        digest.update(piece)
        advance(len(piece))
    good = digest.hexdigest() == expected
    return None if good else f"tensor {tensor.name}: does not match the manifest's digest"


def whole(name: str, info: TensorInfo) -> TensorPlan:
    return TensorPlan(name, name, info)


def first_difference(
    source_folder: Path, tensor: TensorPlan, folder: Path, info: TensorInfo, advance: Advance
) -> str | None:
    """Compare one tensor of `folder` with what it should be; None if equal."""
    path = folder / info.file
    done = 0
    scratch = thread_scratch()
    with open_regular(path) as file:
        for piece in child_bytes(source_folder, tensor, scratch):
            ours = scratch.buffer("compare", len(piece))
            read_exactly(file, ours.data, info.offset + done, path)
            theirs = np.frombuffer(piece, dtype=np.uint8)
            if not _equal(ours, theirs):
                different = ours != theirs
                element = (done + int(different.argmax())) // (info.nbytes // info.numel)
                index = [int(i) for i in np.unravel_index(element, info.shape)]
                return f"tensor {tensor.name}: differs from the parent's, first at {index}"
            done += len(piece)
            advance(len(piece))
    return None


def _equal(left: Bytes, right: Bytes) -> bool:
    """Compared in words of 8 bytes, which is several times faster than byte by byte."""
    words = len(left) // 8 * 8
    return np.array_equal(left[:words].view(np.uint64), right[:words].view(np.uint64)) and (
        np.array_equal(left[words:], right[words:])
    )


def in_threads(check: Callable[[_T], str | None], items: Iterable[_T]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return [problem for problem in pool.map(check, items) if problem is not None]
