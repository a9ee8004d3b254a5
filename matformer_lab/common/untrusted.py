"""Files that somebody else wrote, opened with care: regular files only, of bounded size."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from matformer_lab.common.errors import InputError

MAX_SMALL_BYTES: Final = 100_000_000
"""More than any real config, index or tokenizer has; it is read into memory."""


def open_regular(path: Path) -> BinaryIO:
    """Open for reading without a buffer. Raises `InputError` for a pipe, a device, a folder."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer who never comes.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        file = os.fdopen(descriptor, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise InputError(f"{path}: is not a regular file")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return file


def read_small(path: Path, limit: int = MAX_SMALL_BYTES) -> bytes:
    """The whole file. Raises `InputError` when it cannot be read or is over `limit` bytes."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = bytearray()
            while size <= limit and len(data) <= limit and (piece := file.read(1 << 20)):
                data += piece
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if max(size, len(data)) > limit:
        raise InputError(f"{path}: more than {limit:,} bytes, which no real checkpoint has here")
    return bytes(data)


def read_exactly(file: BinaryIO, view: memoryview, position: int, path: Path) -> None:
    """Fill `view` from `position`. Raises `InputError` when the file ends early."""
    try:
        file.seek(position)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise InputError(
                    f"{path}: ends at byte {position + done:,}, its header promises more"
                )
            done += count
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
