"""The gate's summaries: replaced only while they are what the gate wrote.

They lie among a user's own files. Each ends in a seal, a comment with a digest of all that stands
before it. Another file under its name, or the same file with somebody's changes, does not fit its
seal and is left alone.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.disk_errors import disk_errors
from matformer_lab.common.files.untrusted import read_small

AS_IT_WAS: Final = "it is as it was"


def write_sealed(path: Path, data: bytes, kind: str) -> None:
    """Write a summary with its seal.

    Args:
        path: The file; a link is followed.
        data: Markdown or XML, without the seal.
        kind: What the file is, in a word or two; one kind never replaces another.

    Raises:
        InputError: The file that is there is not the gate's, or the path cannot be written.
    """
    check_replaceable(path, kind)
    with disk_errors(path, AS_IT_WAS):
        write_atomic(real_path(path), seal(data, kind))


def check_replaceable(path: Path, kind: str) -> None:
    """Check that `path` may be written: it is not there, empty, or the gate's own.

    Raises:
        InputError: Otherwise.
    """
    if (found := content_to_replace(path)) and not is_sealed(found, kind):
        raise InputError(
            f"{path}: is not a {kind} that this tool made, or was changed since it was written; "
            "move it away or choose another name"
        )


def content_to_replace(path: Path) -> bytes:
    """What is in the file that a write to `path` would replace; empty if there is none.

    Raises:
        InputError: `path` cannot become a file: it is a folder, a pipe, a device or a looping link,
            or lies in no folder.
    """
    target = real_path(path)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        if target.parent.is_dir():
            return b""
        mode = None
    except OSError:  # too long, or a file where a folder should be
        mode = None
    if mode is None or not stat.S_ISREG(mode):
        raise InputError(f"{path}: cannot be written; give a file in an existing folder")
    return read_small(target)


def real_path(path: Path) -> Path:
    """The path with its links followed, so that a write goes where they lead.

    Raises:
        InputError: No path can have that name.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: cannot be written; there is a NUL in it")
    return Path(os.path.realpath(path))


def seal(data: bytes, kind: str) -> bytes:
    """`data` with its seal, a comment.

    Args:
        data: Markdown or XML.
        kind: What the file is.
    """
    digest = hashlib.sha256(kind.encode() + b"\n" + data).hexdigest()
    text = f"<!-- matformer-lab {kind}, sha256 {digest}: replaced by the next while unchanged -->\n"
    return data + text.encode()


def is_sealed(data: bytes, kind: str) -> bool:
    """Whether `data` is to the byte what `seal` made of something."""
    size = len(seal(b"", kind))
    return seal(data[: max(0, len(data) - size)], kind) == data
