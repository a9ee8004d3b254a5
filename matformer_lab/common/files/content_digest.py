"""Digests of whole files, computed once: every byte counts, and a file that did not change is not
read again.

A digest is kept under the file's path, size, device, inode, modification and change time. The
change time cannot be set back, so that bytes replaced under an old modification time are noticed.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.untrusted import open_regular
from matformer_lab.common.progress import Advance, quiet

CHUNK_BYTES: Final = 16 << 20
RACY_NS: Final = 2 * 10**9
"""A file changed less than this before it was read may change again within the same tick of the
file system's clock, so its digest is not kept (as Git does with its index)."""


def cache_folder() -> Path:
    """`MATFORMER_LAB_CACHE`, else `matformer_lab` in the user's cache (`XDG_CACHE_HOME`)."""
    own = os.environ.get("MATFORMER_LAB_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matformer_lab"


def known_digest(path: Path) -> str | None:
    """The digest of a file that was read before and has not changed since; None if it was not."""
    known = _known(path)
    return None if known is None else known["digest"]


def _known(path: Path) -> dict[str, Any] | None:
    """What is kept of a file that has not changed since."""
    try:
        note = json.loads(_note_of(path).read_bytes())
        state = _state(path)
    except (OSError, ValueError, RuntimeError):
        return None
    current = isinstance(note, dict) and note.get("state") == state
    return note if current and isinstance(note.get("digest"), str) else None


def content_digest(path: Path, advance: Advance = quiet) -> str:
    """blake3 (hex) of every byte of a file.

    Args:
        path: A regular file.
        advance: Told the bytes read.

    Raises:
        InputError: When the file cannot be read, or changes meanwhile.
    """
    return digest_with(path, None, lambda chunk, position: None, lambda: None, advance)[0]


def digest_with(
    path: Path,
    key: str | None,
    look: Callable[[memoryview, int], None],
    found: Callable[[], Any],
    advance: Advance = quiet,
) -> tuple[str, Any]:
    """The digest of a file, and what else was found while its bytes passed by.

    Args:
        path: A regular file.
        key: Under which the finding is kept beside the digest; None: there is none.
        look: Shown every chunk and its position, in order.
        found: The finding once all were shown, as JSON has it.
        advance: Told the bytes read.

    Returns:
        The digest and the finding; those of an earlier reading if the file has not changed since.

    Raises:
        InputError: When the file cannot be read, or changes meanwhile.
    """
    known = _known(path)
    if known is not None and (key is None or key in known):
        advance(path.stat().st_size)
        return known["digest"], known.get(key or "")
    started = time.time_ns()
    before = _state(path)
    hasher = blake3(max_threads=blake3.AUTO)
    chunk = bytearray(CHUNK_BYTES)
    view = memoryview(chunk)
    position = 0
    try:
        with open_regular(path) as file:
            while count := file.readinto(view):  # type: ignore[attr-defined]
                hasher.update(view[:count])
                look(view[:count], position)
                position += count
                advance(count)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    digest = hasher.hexdigest()
    if _state(path) != before:
        raise InputError(f"{path}: changed while it was read; run again")
    finding = found()
    if before["ctime_ns"] < started - RACY_NS:
        _note(path, before, digest, {} if key is None else {key: finding})
    return digest, finding


def _state(path: Path) -> dict[str, Any]:
    """What changes whenever the bytes do."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return {
        "size": stat.st_size,
        "device": stat.st_dev,
        "inode": stat.st_ino,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }


def _note_of(path: Path) -> Path:
    name = blake3(os.fsencode(path.resolve())).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"


def _note(path: Path, state: dict[str, Any], digest: str, more: dict[str, Any]) -> None:
    """Keep a digest; where that is not possible it is computed again next time."""
    note = _note_of(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            note, json.dumps({**more, "path": str(path), "state": state, "digest": digest}).encode()
        )
    except (OSError, ValueError):
        pass
