"""Files from elsewhere, read with care: regular files only, of bounded size."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from matformer_lab.common.errors import InputError, one_line

MAX_SMALL_BYTES: Final = 100_000_000
"""Larger than any real config, index or tokenizer; such files are read into memory."""


_PULL: Final = "`git lfs pull` in the clone, or with `hf download`"
_ANNEX_GET: Final = "`git annex get` in the clone"
_POINTERS: Final = (
    (b"version https://git-lfs.github.com/spec/", "Git-LFS", _PULL),
    (b"version https://hawser.github.com/spec/", "Git-LFS", _PULL),  # its name before 2014
    (b"# xet version ", "Xet", "`hf download`"),
    (b"/annex/objects/", "git-annex", _ANNEX_GET),
    (b".git/annex/objects/", "git-annex", _ANNEX_GET),  # links, where the disk has none
)
"""How the small texts begin that stand for a file until it is fetched."""

_WEB_PAGES: Final = (b"<!doctype html", b"<html")
_MARK: Final = b"\xef\xbb\xbf"
_FEWEST: Final = 8
_START: Final = 64


def refuse_stand_in(start: bytes, where: str) -> None:
    """Raise `InputError` if a file is something else in its place: a pointer, or a web page.

    Args:
        start: The file's first bytes; 8 are enough, since no JSON and no header begins so.
        where: Names the file in the error.
    """
    start = start.removeprefix(_MARK)
    if len(start) < _FEWEST:
        return
    while start.startswith(b"../"):
        start = start[3:]  # a link of git-annex, as deep as the checkpoint lies in its repository
    for begins, kind, fetch in _POINTERS:
        if begins.startswith(start[: len(begins)]):
            raise InputError(
                f"{where}: is a {kind} pointer in place of the file; fetch the file with {fetch}"
            )
    page = any(begins.startswith(start[: len(begins)].lower()) for begins in _WEB_PAGES)
    page = page or start[:5].lower() == _WEB_PAGES[1]
    if page and not where.endswith((".html", ".htm")):
        raise InputError(
            f"{where}: is a web page in place of the file; download the file again, with "
            "`hf download`"
        )


def refuse_unfetched_link(path: Path) -> None:
    """Raise `InputError` if a path is a link of git-annex to a file that was not fetched."""
    # os.path's do not fail: a name that an index gives may be too long, or a link lead to itself.
    if not os.path.islink(path) or path.exists():  # noqa: PTH114
        return
    if "/annex/objects/" in Path(os.path.realpath(path)).as_posix():
        raise InputError(
            f"{path}: is a git-annex link to a file that is not here; fetch the file with "
            f"{_ANNEX_GET}"
        )


def open_regular(path: Path) -> BinaryIO:
    """Open a file for unbuffered reading.

    Raises:
        InputError: The file cannot be opened, or is a pipe, a device or a folder.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer that never comes.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        file = os.fdopen(descriptor, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise InputError(f"{path}: is not a regular file")
    except InputError:
        raise  # it is a ValueError, and says what is wrong
    except FileNotFoundError:
        refuse_unfetched_link(path)
        missing = "is a link to a file that is not there" if path.is_symlink() else "no such file"
        raise InputError(f"{path}: {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL in the name, or what no file system can encode
        raise InputError(f"{path}: is not a file name ({one_line(error)})") from None
    return file


def read_small(path: Path, limit: int = MAX_SMALL_BYTES) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        InputError: The file cannot be read, is not a regular file, is larger than `limit`, or is a
            pointer or a web page in its place.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = bytearray()
            while size <= limit and len(data) <= limit and (piece := file.read(1 << 20)):
                data += piece
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if max(size, len(data)) > limit:
        raise InputError(
            f"{path}: over the limit of {limit:,} bytes; no real file of this kind is so large"
        )
    refuse_stand_in(bytes(data[:_START]), str(path))
    return bytes(data)


def read_exactly(file: BinaryIO, view: memoryview, position: int, path: Path) -> None:
    """Fill `view` with the bytes of `file` from `position` on.

    Args:
        file: Opened by `open_regular`.
        view: Filled to its last byte.
        position: Byte of the file to start at.
        path: Names the file in an error.

    Raises:
        InputError: The file ends early or cannot be read.
    """
    try:
        file.seek(position)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise InputError(
                    f"{path}: ends at byte {position + done:,}, but its header promises more; "
                    "download or copy it again"
                )
            done += count
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
