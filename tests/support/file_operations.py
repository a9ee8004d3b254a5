"""File operations under a folder, watched in this process: noted, failed, or the last ones.

A kill is an exception at the n-th operation, after which no operation does anything any more, so
that no handler can tidy up. It is the cheap form of a SIGKILL; `kill_loop.py` has the real one.
"""

import builtins
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

NAMES: Final = (
    *("open", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link"),
    *("ftruncate", "pwrite", "chmod"),
)
"""The functions of `os` through which the tool changes the disk. What is written through Python's
own buffers is durable at the fsync alone, which is watched."""


class Killed(BaseException):
    """As if the process were gone."""


@dataclass(frozen=True)
class Operation:
    """One operation that was done.

    Attributes:
        name: The function of `os`.
        path: The file or folder that it changed.
        target: Where `rename`, `replace` and `link` lead.
        content: Of a file at `fsync`; None of a folder.
    """

    name: str
    path: Path
    target: Path | None = None
    content: bytes | None = field(default=None, repr=False)


@contextmanager
def watched(
    root: Path, before: Callable[[int, str], None], done: list[Operation] | None = None
) -> Iterator[None]:
    """Watch every operation that changes something under `root`.

    Args:
        root: The folder.
        before: Called with the operation's number, from 0, and its name; what it raises, the
            operation raises. Writes to one file in a row count as one.
        done: Where to note what was done.
    """
    root = root.resolve()
    count, lock, last = 0, threading.RLock(), ("", Path())
    real = {name: getattr(os, name) for name in NAMES}

    def wrapper(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count, last
            with lock:
                path = _path(name, arguments, named)
                if path is None or not _changes(name, arguments, path, root):
                    return real[name](*arguments, **named)
                before(count, name)
                if name == "pwrite" and last == (name, path):
                    return real[name](*arguments, **named)
                count, last = count + 1, (name, path)
                new = name == "open" and not os.path.lexists(path)
                result = real[name](*arguments, **named)
                if done is not None and (name != "open" or new):
                    target = Path(os.path.abspath(arguments[1])) if name in _TWO else None  # noqa: PTH100
                    content = _content(path) if name == "fsync" else None
                    done.append(Operation(name, path, target, content))
                return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(os, name, wrapper(name))
        yield


_TWO: Final = ("rename", "replace", "link")
_OF_DESCRIPTORS: Final = ("fsync", "ftruncate", "pwrite")
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _path(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Path | None:
    first: Any = arguments[0]
    if name in _OF_DESCRIPTORS:
        return Path(f"/proc/self/fd/{first}").readlink()
    if named.get("dir_fd") is not None:
        return Path(f"/proc/self/fd/{named['dir_fd']}").readlink() / str(first)
    if isinstance(first, str | bytes | os.PathLike):
        return Path(os.path.abspath(os.fsdecode(first)))  # noqa: PTH100
    return None


def _changes(name: str, arguments: tuple[Any, ...], path: Path, root: Path) -> bool:
    if path.name == ".lock" or not path.is_relative_to(root):
        return False  # a lock says nothing about what is written
    return name != "open" or bool(arguments[1] & _WRITING)


def _content(path: Path) -> bytes | None:
    if path.is_dir():
        return None
    with builtins.open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def count_operations(root: Path, work: Callable[[], object]) -> int:
    """How many operations `work` does under `root`."""
    seen = 0

    def note(number: int, name: str) -> None:
        nonlocal seen
        seen = number + 1

    with watched(root, note):
        work()
    return seen


def kill_at(root: Path, step: int, work: Callable[[], object]) -> bool:
    """Do `work` and die at its `step`-th operation; whether it came to that."""

    dead = False

    def die(number: int, name: str) -> None:
        nonlocal dead
        dead = dead or number >= step
        if dead:
            raise Killed

    with watched(root, die):
        try:
            work()
        except Killed:
            pass
        except BaseException:
            if not dead:
                raise
    return dead


def fail_at(root: Path, step: int, error: int, work: Callable[[], object]) -> bool:
    """Do `work`, with its `step`-th operation failing as a full or broken disk does.

    Returns:
        Whether it came to that. What `work` raises is passed on.
    """

    failed = False

    def fail(number: int, name: str) -> None:
        nonlocal failed
        if number == step:
            failed = True
            raise OSError(error, os.strerror(error))

    with watched(root, fail):
        work()
    return failed


def record(root: Path, work: Callable[[], object]) -> list[Operation]:
    """What `work` does under `root`."""
    done: list[Operation] = []
    with watched(root, lambda number, name: None, done):
        work()
    return done
