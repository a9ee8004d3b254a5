"""A lock on a folder, for one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Final

from filelock import FileLock, Timeout

from matformer_lab.common.errors import InputError

LOCK_FILE: Final = ".lock"


def is_lock(path: Path) -> bool:
    """Whether there is nothing at `path`, or a lock of ours: an empty file."""
    try:
        stat = path.lstat()
    except FileNotFoundError:
        return True
    return S_ISREG(stat.st_mode) and not stat.st_size


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on `folder`, through the file `.lock` in it.

    The operating system drops the lock when the process ends, however it ends: a killed process
    leaves an unlocked file behind.

    Args:
        folder: An existing folder.
        busy: The error message when another process holds the lock.

    Raises:
        InputError: Another process holds the lock (the message is `busy`) or has just removed the
            folder, or `folder` is a link or a file.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: a link or a file is in the way of this folder; remove it")
    if not is_lock(folder / LOCK_FILE):
        raise InputError(
            f"{folder / LOCK_FILE}: is in the way and was not made by this tool; move it away"
        )
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    except FileNotFoundError:
        raise InputError(
            f"{folder}: another process has just finished with this folder; run again"
        ) from None
    try:
        yield
    finally:
        lock.release()
