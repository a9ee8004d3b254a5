"""Files that are either complete or absent: write to a temporary file, fsync, rename."""

import os
import re
import tempfile
from pathlib import Path
from typing import Final

_SUFFIX: Final = ".matformer_lab.tmp"
_TEMPORARY: Final = re.compile(rf"\.(?P<target>.+)\.[0-9a-z_]{{8}}{re.escape(_SUFFIX)}", re.DOTALL)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data` in one step.

    A reader sees either the old file or the new one, and so does whoever comes after a kill or a
    power cut.

    Args:
        path: The file. Its folder exists.
        data: The whole new content.

    Raises:
        OSError: The disk refuses; `path` is then as it was.
    """
    temporary = write_temporary(path, data)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_temporary(path: Path, data: bytes) -> Path:
    """Write the future content of `path` beside it, durably.

    Args:
        path: The file that is to be replaced. Its folder exists.
        data: The whole new content.

    Returns:
        The temporary file, to be renamed to `path` or removed.

    Raises:
        OSError: The disk refuses; no temporary file is left.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates 0600 files; the result should have the permissions of any new file.
        temporary.chmod(0o666 & ~_umask())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def target_of_temporary(name: str) -> str | None:
    """The name of the file that a temporary file of ours was to become.

    Args:
        name: A file's name.

    Returns:
        None where `write_temporary` makes no such name.

    Examples:
        >>> target_of_temporary(".results.csv.k3x0_a1z.matformer_lab.tmp")
        'results.csv'
        >>> target_of_temporary(".results.csv.original.tmp")
    """
    match = _TEMPORARY.fullmatch(name)
    return match["target"] if match else None


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; does nothing where folders cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network filesystems cannot fsync a folder
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; does nothing where it exists.

    Raises:
        OSError: The disk refuses, or something else has one of the names.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        fsync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
