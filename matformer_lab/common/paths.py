"""The type of paths that callers pass, and what becomes of them."""

import os
from pathlib import Path
from typing import TypeAlias

from matformer_lab.common.errors import InputError, one_line

StrPath: TypeAlias = str | os.PathLike[str]
"""A path, as every public function accepts it."""


def to_path(written: StrPath) -> Path:
    """A path that the file system can be asked about.

    Raises:
        InputError: No file can have the name: it holds a NUL, or what cannot be encoded.
    """
    try:
        if "\0" in os.fspath(written):
            raise ValueError("a NUL in the name")
        os.fsencode(written)
    except ValueError as error:
        raise InputError(f"{written}: is not a file name ({one_line(error)})") from None
    return Path(written)


def resolved(path: Path) -> Path:
    """A path with its links followed, whether or not there is something.

    Raises:
        InputError: It is a link that leads to itself, or no file can have the name.
    """
    try:
        return to_path(path).resolve()
    except (OSError, RuntimeError):  # the latter up to Python 3.12
        raise InputError(f"{path}: is a link that leads to itself") from None
