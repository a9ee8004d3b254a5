"""Ctrl-C: one line and exit code 130, however early, however often.

- While the command starts, the process ends at once: nothing has been written yet.
- While it runs, the first Ctrl-C raises KeyboardInterrupt, so that cleaning up happens. Libraries
  turn that into other errors, or swallow it, when it meets them in the middle of an import:
  whatever error follows a Ctrl-C counts as the interrupt.
- Another within `_PATIENCE` seconds (a key that bounced) changes nothing; a later one ends the
  process at once, which the next run can take as any kill.
"""

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

from matformer_lab.cli.exit_codes import INTERRUPTED

MESSAGE: Final = "interrupted; run the same command again to continue"
_PATIENCE: Final = 1.0
_first: list[float] = []
"""When the first Ctrl-C came, if one did."""


def leave_at_once() -> None:
    """From now on, Ctrl-C ends the process without further ado."""
    _handle(_leave)


def raise_once() -> None:
    """From now on, the first Ctrl-C raises KeyboardInterrupt."""
    _handle(_interrupt)


def happened(error: BaseException) -> bool:
    """Whether `error` is a Ctrl-C, or what became of one."""
    return bool(_first) or isinstance(error, KeyboardInterrupt)


def say_and_leave(line: str, code: int) -> NoReturn:
    """End the process here, whatever it is doing, with a line on stderr."""
    try:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(code)


def _handle(handler: "signal._HANDLER") -> None:
    """Handle Ctrl-C so, unless it is ignored (a job in the background) or somebody else's."""
    ours = (signal.default_int_handler, _leave, _interrupt)
    if signal.getsignal(signal.SIGINT) in ours:
        with suppress(ValueError):  # not the main thread, where no signals arrive
            signal.signal(signal.SIGINT, handler)


def _leave(_: int, __: FrameType | None) -> NoReturn:
    say_and_leave(MESSAGE, INTERRUPTED)


def _interrupt(_: int, __: FrameType | None) -> None:
    now = time.monotonic()
    if not _first:
        _first.append(now)
        raise KeyboardInterrupt
    if now - _first[0] > _PATIENCE:
        _leave(signal.SIGINT, None)
