"""Errors that nobody foresaw: one line for the user, the rest in a log file to report."""

import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

from matformer_lab.common.printable import printable, shown
from matformer_lab.common.version import __version__

_NO_MEMORY: Final = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "can't start new thread",
)
"""How libraries say that there is no memory, in other errors than MemoryError."""


def out_of_memory(error: BaseException) -> str | None:
    """What to tell the user if `error` says that there is too little memory; else None."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        what = f" ({shown(text)})" if text else ""
        return f"not enough memory{what}; free some, or raise the limit (ulimit -v)"
    return None


def unforeseen(error: BaseException) -> str:
    """Write a log file about `error`; what to tell the user."""
    what = shown("".join(traceback.format_exception_only(error)))
    log = _write_log(error)
    details = f"; details are in {log}, please report it with that file" if log else ""
    return f"a fault in matformer-lab, not in your input: {what}{details}"


def _write_log(error: BaseException) -> Path | None:
    """The new log file; None where no folder takes one."""
    lines = [
        f"matformer-lab {__version__}, Python {sys.version}, {platform.platform()}",
        f"arguments: {sys.argv[1:]!r}",
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    text = "".join(f"{printable(line)}\n" for line in lines)
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    for folder in (_log_folder, _temporary_folder):
        try:
            path = folder() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return path
        except (OSError, RuntimeError, ImportError):  # no home, no room, no rights
            continue
    return None


def _log_folder() -> Path:
    from matformer_lab.common.files.content_digest import cache_folder

    return cache_folder() / "logs"


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir(), "matformer-lab-logs")
