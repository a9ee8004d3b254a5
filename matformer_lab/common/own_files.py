"""Files of ours that lie among a user's own, and are replaced only while they are what we wrote.

Such a file ends in a seal: a comment with a digest of all that stands before it. Another file under
its name, or the same file with somebody's changes, does not fit its seal and is left alone.
"""

import hashlib
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Final

from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.errors import InputError
from matformer_lab.common.untrusted import read_small

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def write_own(path: Path, data: bytes, kind: str) -> None:
    """Write a file of ours with its seal.

    Args:
        path: The file; a link is followed.
        data: Markdown, HTML, XML or PNG, without the seal.
        kind: What the file is, in a word or two; one kind never replaces another.

    Raises:
        InputError: The file that is there is not ours, or the path cannot be written.
    """
    check_replaceable(path, kind)
    write_atomic(real_path(path), seal(data, kind))


def check_replaceable(path: Path, kind: str) -> None:
    """Check that `write_own` may write `path`: nothing is there, nothing is in it, or it is ours.

    Raises:
        InputError: Otherwise.
    """
    if (found := content_to_replace(path)) and not is_sealed(found, kind):
        raise InputError(
            f"{path}: is no {kind} of this tool, or was changed since it was written; "
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
    """`data` with its seal, a comment in the file's own format.

    Args:
        data: Markdown, HTML, XML or PNG.
        kind: What the file is.
    """
    digest = hashlib.sha256(kind.encode() + b"\n" + data).hexdigest()
    text = f"matformer-lab {kind}, sha256 {digest}".encode()
    if not data.startswith(_PNG):
        return data + b"<!-- " + text + b": replaced by the next one while unchanged -->\n"
    chunk = b"tEXtComment\x00" + text
    sealed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data.removesuffix(_PNG_END) + sealed + _PNG_END


def is_sealed(data: bytes, kind: str) -> bool:
    """Whether `data` is to the byte what `seal` made of something."""
    end = _PNG_END if data.startswith(_PNG) else b""
    size = len(seal(_PNG + end if end else b"", kind)) - (len(_PNG + end) if end else 0)
    return seal(data[: len(data) - len(end) - size] + end, kind) == data
