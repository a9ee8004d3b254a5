"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from matformer_lab.common.errors import InputError

LOCK_FILE: Final = ".lock"


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold `folder` alone, by a lock on the file `.lock` in it.

    The lock goes with its process, however that ends: what a kill leaves is an unlocked file.

    Args:
        folder: An existing folder.
        busy: What to say when another process holds it.

    Raises:
        InputError: `busy`; or that the folder is a link or a file, or has just been removed by the
            process that held it.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: is in the way (a link or a file); remove it")
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    except FileNotFoundError:
        raise InputError(
            f"{folder}: another process has just finished with it; look again"
        ) from None
    try:
        yield
    finally:
        lock.release()
