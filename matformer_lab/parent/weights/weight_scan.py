"""One reading of a weight file: its digest, and which of its tensors hold NaN or infinity."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.files.content_digest import digest_with
from matformer_lab.common.not_finite import ITEM_BYTES, holds_not_finite
from matformer_lab.common.progress import Advance
from matformer_lab.parent.weights.headers import TensorInfo

NOT_FINITE: Final = "not_finite"
"""The key under which what was found is kept beside the digest."""


@dataclass(frozen=True)
class WeightScan:
    """What is known of a weight file once every byte of it was read.

    Attributes:
        digest: blake3 (hex) of the file.
        not_finite: The offsets of the tensors with NaN or infinity, ascending.
    """

    digest: str
    not_finite: frozenset[int]


def scan(path: Path, tensors: Iterable[TensorInfo], advance: Advance) -> WeightScan:
    """Read a weight file, unless that was done before and it has not changed since.

    Args:
        path: The file.
        tensors: Of the file.
        advance: Told the bytes read.

    Raises:
        InputError: The file cannot be read, or changes meanwhile.
    """
    search = _Search(sorted(tensors, key=lambda info: info.offset))
    digest, found = digest_with(path, NOT_FINITE, search.feed, lambda: search.found, advance)
    return WeightScan(digest, frozenset(found if isinstance(found, list) else ()))


class _Search:
    """Follows a file's bytes, tensor by tensor."""

    def __init__(self, tensors: Sequence[TensorInfo]) -> None:
        self._todo = [t for t in tensors if t.dtype in ITEM_BYTES and t.nbytes]
        self._next = 0
        self._split = b""  # the first bytes of an element whose others are in the next chunk
        self.found: list[Any] = []

    def feed(self, chunk: memoryview, position: int) -> None:
        """Search the bytes of the file from `position` on, which follow those before."""
        end = position + len(chunk)
        while self._next < len(self._todo):
            info = self._todo[self._next]
            start, stop = info.offset, info.offset + info.nbytes
            if start >= end:
                return
            part = chunk[max(start - position, 0) : stop - position]
            self._search(info, part)
            if stop > end:
                return
            self._next += 1
            self._split = b""

    def _search(self, info: TensorInfo, part: memoryview) -> None:
        if self.found and self.found[-1] == info.offset:
            return
        size = ITEM_BYTES[info.dtype]
        missing = (size - len(self._split)) % size if self._split else 0
        first = memoryview(self._split + part[:missing])
        whole = (len(part) - missing) // size * size
        if (len(first) == size and holds_not_finite(first, info.dtype)) or (
            whole > 0 and holds_not_finite(part[missing : missing + whole], info.dtype)
        ):
            self.found.append(info.offset)
        self._split = bytes(part[missing + max(whole, 0) :])
