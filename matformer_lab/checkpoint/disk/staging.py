"""A folder that appears under its final name only once complete, and whose writing can be resumed.

Everything is written to a staging folder, `.NAME.partial`, beside the target. It holds `order.json`
(a description of what is being written), the future target folder `files`, and whatever else the
writing needs. A run locks the staging folder while it works in it. A killed run leaves it behind;
the next run continues there if its order is the same, and clears the folder otherwise.

The order lists every file that the run may write. Nothing else in the staging folder is the tool's:
a stranger's file there is named, and stays.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.atomic import (
    fsync_folder,
    make_folder,
    target_of_temporary,
    write_atomic,
)
from matformer_lab.common.files.disk_errors import disk_errors
from matformer_lab.common.files.locks import LOCK_FILE, is_lock, locked
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.units import in_units

_ORDER_FILE: Final = "order.json"
_MADE_BY: Final = "matformer_lab"
_PREFIX, _SUFFIX = ".", ".partial"
_REMEDY: Final = "finished files are kept, run again to continue"


@dataclass(frozen=True)
class Staging:
    """The staging folder of a target.

    Attributes:
        out: The target as the user wrote it, for messages.
        folder: The staging folder.
        target: The target, resolved.
    """

    out: Path
    folder: Path
    target: Path

    @property
    def files(self) -> Path:
        """The folder that becomes the target."""
        return self.subfolder("files")

    def subfolder(self, name: str) -> Path:
        """A subfolder for intermediate files, created if needed and kept for a resumed run."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def keep_only(self, subfolder: str, names: Iterable[str] = ()) -> None:
        """Remove what an earlier run left in a subfolder, except the files with these names."""
        kept = {self.subfolder(subfolder) / name for name in names}
        _remove(path for path in _own(self.folder) if _lies_in(path, subfolder, self.folder, kept))

    def publish(self) -> None:
        """Durably rename `files` to the target and remove the staging folder.

        Raises:
            InputError: When a file that is not of this run would become part of the target.
        """
        files = self.files
        _own(self.folder)
        fsync_folder(files)
        if self.target.is_dir():
            self.target.rmdir()  # fails unless the folder is empty
        files.rename(self.target)
        fsync_folder(self.target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove what runs wrote to the staging folder, and the folder itself if that was all.

        `order.json` goes late: by it a later run recognises the folder as made by this tool.
        """
        _remove(_own(self.folder, others_stay=True))
        # Without its order, what comes back after a power cut would be arbitrary.
        fsync_folder(self.folder)
        (self.folder / _ORDER_FILE).unlink(missing_ok=True)
        with suppress(OSError):  # a stranger's file is there, or Windows keeps open files
            (self.folder / LOCK_FILE).unlink(missing_ok=True)
            self.folder.rmdir()


def is_staging(path: Path) -> bool:
    """Whether `path` is a staging folder that a run left, or that one is writing to."""
    named = path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)
    return named and path.is_dir() and not path.is_symlink() and (path / _ORDER_FILE).is_file()


def published_before(out: Path, order: Mapping[str, Any]) -> bool:
    """Whether a killed run already published `out` for this order; if so, finish its cleanup.

    Args:
        out: The target folder.
        order: What would be written now, as for `staging`.

    Returns:
        True if `out` is complete and nothing is left to do.

    Raises:
        InputError: When the disk fails, or another run is writing `out`.
    """
    stage = _staging_of(out)
    known = stage.folder / _ORDER_FILE
    with disk_errors(out, _REMEDY):
        if not (stage.target.is_dir() and any(stage.target.iterdir()) and stage.folder.is_dir()):
            return False
        if not _holds_work(stage.folder):  # killed in the last steps of `discard`
            (stage.folder / LOCK_FILE).unlink(missing_ok=True)
            stage.folder.rmdir()
            return False
        if not known.is_file():
            return False
        with _exclusive(stage):
            if (stage.folder / "files").exists() or known.read_bytes() != _encoded(order):
                return False
            stage.discard()
    return True


def _encoded(order: Mapping[str, Any]) -> bytes:
    return json.dumps({"made_by": _MADE_BY, **order}).encode()


def check_target(parent_folder: Path | None, out: Path) -> None:
    """Check that `out` can be written: that it is new, or an empty folder, outside the parent.

    Args:
        parent_folder: The parent's folder; None if it is not on this machine yet.
        out: The target folder.

    Raises:
        InputError: When `out` cannot be used.
    """
    try:
        target = out.resolve()
        parent = parent_folder and parent_folder.resolve()
        if target == parent:
            raise InputError(f"{out}: is the parent itself; choose another folder")
        if parent and target.is_relative_to(parent):
            raise InputError(
                f"{out}: lies inside the parent {parent_folder}; choose another folder"
            )
        if target.exists() and not target.is_dir():
            raise InputError(f"{out}: is a file; choose a new folder")
        if target.is_dir() and any(target.iterdir()):
            raise InputError(
                f"{out}: already exists and is not empty; remove it or choose another folder"
            )
    except (OSError, RuntimeError) as error:
        raise InputError(f"{out}: cannot be written ({one_line(error)})") from None


def check_space(out: Path, needed: int) -> None:
    """Check that the disk has room, counting what an unfinished run already holds as free.

    Args:
        out: The target folder.
        needed: Bytes to be written.

    Raises:
        InputError: When there is too little space.
    """
    try:
        existing = next(folder for folder in out.resolve().parents if folder.is_dir())
        free = shutil.disk_usage(existing).free
        free += sum(_allocated_bytes(path) for path in _staging_of(out).folder.rglob("*"))
    except OSError:
        return  # writing will report the error
    if free < needed:
        raise InputError(f"{out}: needs {in_units(needed)}, but the disk has {in_units(free)} free")


def _allocated_bytes(path: Path) -> int:
    try:
        stat = path.lstat()
    except OSError:
        return 0
    blocks: int = getattr(stat, "st_blocks", 0)  # unlike st_size, correct for sparse files
    return blocks * 512


def _staging_of(out: Path) -> Staging:
    try:
        target = out.resolve()
    except (OSError, RuntimeError) as error:  # a symlink loop
        raise InputError(f"{out}: cannot be written ({one_line(error)})") from None
    return Staging(out, target.parent / f"{_PREFIX}{target.name}{_SUFFIX}", target)


@contextmanager
def staging(out: Path, parent_folder: Path, order: Mapping[str, Any]) -> Iterator[Staging]:
    """Lock the staging folder of `out` and clear it if it belongs to a different order.

    Args:
        out: The target folder.
        parent_folder: The parent's folder, which must not contain `out`.
        order: Everything that determines what is written, as JSON values. Files of an unfinished
            run are reused only if its order was the same. `writes` lists the files that the run
            writes, relative to the staging folder.

    Yields:
        The staging folder, for the caller to fill and to `publish`.

    Raises:
        InputError: When `out` cannot be used, the disk fails, another run is writing `out`, or the
            staging folder's name is taken by something that this tool did not make.
    """
    stage = _staging_of(out)
    with disk_errors(out, _REMEDY):
        make_folder(stage.target.parent)
        stage.folder.mkdir(exist_ok=True)
        if not _writes_of(stage.folder):
            _own(stage.folder)  # before there is a lock in what may be a stranger's folder
        with _exclusive(stage):
            check_target(parent_folder, out)  # a run that held the lock may just have finished
            _own(stage.folder)
            known = stage.folder / _ORDER_FILE
            if not known.exists() or known.read_bytes() != _encoded(order):
                _remove(_own(stage.folder))
                fsync_folder(stage.folder)  # what comes back is not of the new order
                write_atomic(known, _encoded(order))
            yield stage


@contextmanager
def _exclusive(stage: Staging) -> Iterator[None]:
    """Hold the lock of the staging folder."""
    busy = f"{stage.out}: another run is writing it; wait for it or stop it"
    with locked(stage.folder, busy):
        yield


def _holds_work(folder: Path) -> bool:
    """Whether there is more than what is left when a run is killed at the end of `discard`."""
    return any(path.name != LOCK_FILE or not is_lock(path) for path in folder.iterdir())


def _own(folder: Path, *, others_stay: bool = False) -> list[Path]:
    """The tool's own files and folders in a staging folder, the deepest first.

    Args:
        folder: The staging folder.
        others_stay: Leave out what is not the tool's, rather than raise.

    Returns:
        All that is there but the order and the lock.

    Raises:
        InputError: When something there is not the tool's.
    """
    if folder.is_symlink() or not folder.is_dir():
        return []  # `locked` refuses links and files
    writes = _writes_of(folder)
    folders = {parent for place in writes for parent in Path(place).parents}
    found = []
    for path in sorted(folder.rglob("*"), reverse=True):
        place = path.relative_to(folder)
        if place.as_posix() == _ORDER_FILE or (place.as_posix() == LOCK_FILE and is_lock(path)):
            continue
        if path.is_dir() and not path.is_symlink():
            ours = place in folders
        else:
            target = place.with_name(target_of_temporary(place.name) or place.name).as_posix()
            ours = S_ISREG(path.lstat().st_mode) and (target in writes or target == _ORDER_FILE)
        if ours:
            found.append(path)
        elif not others_stay:
            raise InputError(
                f"{path}: was not put there by this tool, which works in that folder; move it"
                if writes
                else f"{folder}: is in the way and was not made by this tool (it holds {place}); "
                "move it"
            )
    return found


def _writes_of(folder: Path) -> frozenset[str]:
    """The files that runs of this folder's order write; none where there is no order of ours."""
    path = folder / _ORDER_FILE
    if not os.path.lexists(path):
        return frozenset()
    try:
        order = strict_json(read_small(path), str(path))
    except InputError:
        order = {}
    writes = order.get("writes")
    if order.get("made_by") != _MADE_BY or not isinstance(writes, list):
        raise InputError(
            f"{folder}: is in the way and was not made by this tool, or by an earlier version; "
            "move it"
        )
    return frozenset(place for place in writes if isinstance(place, str))


def _remove(paths: Iterable[Path]) -> None:
    """Remove files, and folders where nothing else is in them."""
    for path in paths:
        if path.is_dir():
            with suppress(OSError):
                path.rmdir()
        else:
            path.unlink()


def _lies_in(path: Path, subfolder: str, folder: Path, kept: set[Path]) -> bool:
    place = path.relative_to(folder)
    return place.parts[0] == subfolder and len(place.parts) > 1 and path not in kept
