"""The first moments of a command, before anything large is imported.

`matformer_lab/__init__` calls `started` as soon as it sees that it is imported by the command line,
so that Ctrl-C, too little memory and a closed stdout end in a line and the right exit code from
then on. Until Ctrl-C is looked after, nothing is imported that takes long, typing included.
"""

from __future__ import annotations

import os
import sys

from matformer_lab.cli import interrupts
from matformer_lab.cli.exit_codes import BAD_INPUT, INTERRUPTED, UNFORESEEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, NoReturn

MIN_ADDRESS_SPACE: Final = 512 << 20
"""Bytes. With less, libraries fail while they are imported, each in a way of its own: some of them
end the process with exit code 1."""

_done: list[bool] = []


def is_command() -> bool:
    """Whether this process is `matformer-lab` or `python -m matformer_lab`."""
    program = (sys.argv or [""])[0]  # during `python -m`, the program is "-m"
    if program == "-m":
        return "matformer_lab" in sys.orig_argv
    return os.path.basename(program).removesuffix(".exe") == "matformer-lab"  # noqa: PTH119


def started() -> None:
    """Make the process a command: streams, Ctrl-C, and what happens when nobody catches an error.

    Calling it again does nothing.
    """
    if _done:
        return
    _done.append(True)
    interrupts.leave_at_once()
    sys.excepthook = _uncaught
    _open_streams()
    _check_address_space()


def _open_streams() -> None:
    """Standard streams that exist and take any text.

    A stream that was closed (`>&-`) becomes the null device: else the next file that is opened
    would get its number, and stray output would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # else somebody's own
            # Under PYTHONIOENCODING=ascii, and for names that are not text.
            stream.reconfigure(errors="backslashreplace")


def _check_address_space() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        _end(
            f"error: the address space is limited to {limit >> 20} MiB (ulimit -v); "
            f"matformer-lab needs {MIN_ADDRESS_SPACE >> 20} MiB to start, and scoring more",
            BAD_INPUT,
        )


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> NoReturn:
    """What no `except` caught: an error while the package itself was imported, which is too broken
    to be imported for the message."""
    if interrupts.happened(error):
        _end(interrupts.MESSAGE, INTERRUPTED)
    if isinstance(error, MemoryError):
        _end("error: not enough memory to start", BAD_INPUT)
    _end(
        f"error: matformer-lab cannot be imported ({kind.__name__}: {str(error)!a}); "
        "install it again",
        UNFORESEEN,
    )


def _end(line: str, code: int) -> NoReturn:
    interrupts.say_and_leave(line, code)
