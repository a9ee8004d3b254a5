"""Weights that are mapped files: read before they are used, so that a failing disk is an error.

Where a page of a mapped file cannot be read (the disk fails, the file is cut short), touching it
ends the process by a signal, SIGBUS, and nobody learns why. Linux reads pages on request and then
says what went wrong (`MADV_POPULATE_READ`, Linux 5.14); older kernels and other systems do not, and
nothing is checked there.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary

from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

_WILL_NEED: Final = 3
"""MADV_WILLNEED: begin to read."""
_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ: read, and wait for it."""
_EHWPOISON: Final = 133
_FAILED: Final = (errno.EFAULT, errno.EIO, _EHWPOISON)
"""What it says of a page that cannot be read; other errors are about the request."""


class UnreadableWeightsError(InputError):
    """The file that weights are mapped from cannot be read any more; it names the file."""


class Span(NamedTuple):
    """Whole pages of memory."""

    start: int
    stop: int


def spans_of(weights: Iterable[Tensor]) -> list[Span]:
    """The memory of weights on the host, neighbours together, in order."""
    return _joined(
        _pages(weight.data_ptr(), weight.data_ptr() + _reach(weight))
        for weight in weights
        if weight.device.type == "cpu" and weight.numel()
    )


def will_need(spans: Sequence[Span]) -> None:
    """Have memory read from its file; returns before it is."""
    for span in spans:
        _advise(span, _WILL_NEED)


def check_readable(*modules: nn.Module) -> None:
    """Read the weights of modules that are about to be used.

    Linux looks at every page, also of what is in memory already: about 35 ms for each GB.

    Raises:
        UnreadableWeightsError: The file that they are mapped from cannot be read.
    """
    for module in modules:
        if module not in _spans:
            _spans[module] = spans_of(module.state_dict().values())
        _read(_spans[module])


def check_rows_readable(table: Tensor, rows: Tensor) -> None:
    """Read some rows of a table that are about to be looked up.

    Args:
        table: [rows, size]; contiguous rows.
        rows: Any shape, indices.

    Raises:
        UnreadableWeightsError: As for `check_readable`.
    """
    if sys.platform != "linux" or table.device.type != "cpu":
        return
    first, step = table.data_ptr(), table.stride(0) * table.itemsize
    size = table.shape[1] * table.itemsize
    begins = (first + step * row for row in set(rows.flatten().tolist()))
    _read(_joined(_pages(begin, begin + size) for begin in begins))


_spans: WeakKeyDictionary[nn.Module, list[Span]] = WeakKeyDictionary()
"""Of the modules that were used: asking PyTorch for weights takes longer than asking Linux."""


def _read(spans: Sequence[Span]) -> None:
    will_need(spans)  # for all at once: the disk has more to do at a time
    for span in spans:
        if _advise(span, _POPULATE_READ) in _FAILED:
            raise UnreadableWeightsError(_said_of(span))


def _reach(weight: Tensor) -> int:
    """Bytes from the first element of a matrix, or of some of its columns, to the last."""
    last = sum((n - 1) * step for n, step in zip(weight.shape, weight.stride(), strict=True))
    return (last + 1) * weight.itemsize


def _pages(start: int, stop: int) -> Span:
    return Span(start - start % mmap.PAGESIZE, stop + -stop % mmap.PAGESIZE)


def _joined(spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].stop:
            found[-1] = Span(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return found


def _advise(span: Span, advice: int) -> int:
    """The error's number; 0 for none."""
    if sys.platform != "linux":
        return 0
    failed = _libc().madvise(
        ctypes.c_void_p(span.start), ctypes.c_size_t(span.stop - span.start), ctypes.c_int(advice)
    )
    return ctypes.get_errno() if failed else 0


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _said_of(span: Span) -> str:
    """The file that a span is mapped from, and what may be wrong with it.

    Weights of two files may lie side by side in memory, so every mapping is asked for again.
    """
    for mapped, path, offset in _mapped_files():
        part = Span(max(span.start, mapped.start), min(span.stop, mapped.stop))
        if part.start < part.stop and _advise(part, _POPULATE_READ) in _FAILED:
            end = offset + part.stop - mapped.start
            missing = path.exists() and path.stat().st_size <= end - mmap.PAGESIZE
            why = "the file was cut short while it was used" if missing else "the disk failed"
            return f"{path}: cannot be read ({why})"
    return "weights: cannot be read (the disk failed)"


def _mapped_files() -> Iterator[tuple[Span, Path, int]]:
    """This process's mapped files: where each lies in memory, its path, where in it that begins."""
    # Names of files need not be UTF-8.
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").split("\n"):
        addresses, _, offset, _, _, *name = line.split(maxsplit=5)
        if name and name[0].startswith("/"):
            start, stop = (int(address, 16) for address in addresses.split("-"))
            yield Span(start, stop), Path(name[0]), int(offset, 16)
