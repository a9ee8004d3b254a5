"""Which symbolic links of a checkpoint folder are followed.

A link that came with a download, in a clone or an archive, may point at any file of this machine,
and a slice copies tokenizers and licences as they are. So a link is followed where it shows a
checkpoint's file:

- inside the folder;
- in a Hub cache, through one of its snapshots, wherever the cache's `blobs` are;
- in one other folder, if config.json and every weight file are links into that folder too: then the
  folder is a view of a checkpoint that somebody has.

Every other link is refused.
"""

import os
import re
from pathlib import Path

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.untrusted import refuse_unfetched_link

_MOST_HOPS = 40
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def path_inside(folder: Path, file: str, where: str) -> Path:
    """`folder/file`, which symbolic links must not lead out of the checkpoint.

    Args:
        folder: A checkpoint folder.
        file: The name of a file in it, which need not exist.
        where: Names the folder or the index in an error.

    Raises:
        InputError: The file is a link out of the checkpoint, a loop of links, or a link of
            git-annex to a file that was not fetched.
    """
    path = folder / file
    try:
        home, target = folder.resolve(), path.resolve()
        inside = _is_in(target, [home]) or _is_cached(home / file, target)
        inside = inside or _is_in(target, _viewed(home))
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{where}: {file} cannot be resolved ({one_line(error)})") from None
    refuse_unfetched_link(path)
    if not inside:
        raise InputError(
            f"{where}: {file} is a link that leads out of the checkpoint folder, to "
            f"{target.parent}; give that folder, or copy the file"
        )
    return path


def _is_in(target: Path, places: list[Path]) -> bool:
    return any(target.is_relative_to(place) for place in places)


def _is_cached(path: Path, target: Path) -> bool:
    """Whether a path leads to `target` through a Hub cache, link by link."""
    for _ in range(_MOST_HOPS):
        folder = path.parent
        if folder.parent.name == "snapshots" and _is_blob(target, folder.parent.parent / "blobs"):
            return True
        if folder.name == "blobs" and folder.parent.name.startswith("models--"):
            return _is_blob(target, folder)
        real = folder.resolve()
        if real.parent.name == "snapshots" and target.parent == real:  # a cache without links
            return True
        if not path.is_symlink():
            return False
        path = Path(os.path.normpath(folder / path.readlink()))
    return False


def _is_blob(target: Path, blobs: Path) -> bool:
    """Whether a file is one of a cache's `blobs`, which may be a link to another disk.

    Blobs are named by their digests. So a folder that only looks like a cache, with a link in place
    of `blobs`, does not lead to anything of interest.
    """
    named_by_digest = _BLOB.fullmatch(target.name) is not None
    return target.parent == blobs.resolve() and (named_by_digest or not blobs.is_symlink())


def _viewed(home: Path) -> list[Path]:
    """The folder that config.json and all weight files link into; none if they do not."""
    parts = [home / "config.json", *home.glob("*.safetensors")]
    if len(parts) < 2 or not all(path.is_symlink() for path in parts):
        return []
    folders = {path.resolve().parent for path in parts}
    return [*folders] if len(folders) == 1 else []
