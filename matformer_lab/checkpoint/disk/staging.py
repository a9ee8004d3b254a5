"""A folder that appears under its final name only when complete, and whose making can be resumed.

Work happens in `.NAME.partial` beside the target, which holds `order.json` (what is being made),
the future folder `files`, and whatever else the work needs. It is locked while a run works in it; a
killed run leaves it for the next one, which goes on if the order is the same and clears it if not.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.atomic import fsync_folder, write_atomic
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.locks import LOCK_FILE, locked
from matformer_lab.common.units import in_units

_ORDER_FILE: Final = "order.json"


@dataclass(frozen=True)
class Staging:
    """The place of work for `target`."""

    out: Path
    folder: Path
    target: Path

    @property
    def files(self) -> Path:
        """What becomes the target."""
        return self.subfolder("files")

    def subfolder(self, name: str) -> Path:
        """A folder for the work's own use, kept for a later run of the same order."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def publish(self) -> None:
        """Give `files` its final name, durably, and remove the rest."""
        files = self.files
        fsync_folder(files)
        if self.target.is_dir():
            self.target.rmdir()  # empty, or this fails
        files.rename(self.target)
        fsync_folder(self.target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the place of work; late `order.json`, by which a later run knows it as ours."""
        _clear(self.folder)
        (self.folder / _ORDER_FILE).unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows removes no file that is open
            (self.folder / LOCK_FILE).unlink(missing_ok=True)
            self.folder.rmdir()


def published_before(out: Path, order: Mapping[str, Any]) -> bool:
    """Whether a run of this order was killed between naming `out` and tidying up. Tidies up."""
    place = _place_of(out)
    known = place.folder / _ORDER_FILE
    with disk_errors(out):
        if not (place.target.is_dir() and any(place.target.iterdir()) and place.folder.is_dir()):
            return False
        if not _holds_work(place.folder):  # killed at its very last steps
            (place.folder / LOCK_FILE).unlink(missing_ok=True)
            place.folder.rmdir()
            return False
        if not known.is_file():
            return False
        with _alone(place):
            if (place.folder / "files").exists() or known.read_bytes() != _encoded(order):
                return False
            place.discard()
    return True


def _encoded(order: Mapping[str, Any]) -> bytes:
    return json.dumps(order).encode()


def check_target(parent_folder: Path | None, out: Path) -> None:
    """`out` must be new (or an empty folder), and not inside the parent (None: still remote)."""
    try:
        target = out.resolve()
        parent = parent_folder and parent_folder.resolve()
        if target == parent:
            raise InputError(f"{out}: is the parent itself; give another folder")
        if parent and target.is_relative_to(parent):
            raise InputError(f"{out}: lies inside the parent {parent_folder}; give another folder")
        if target.exists() and not target.is_dir():
            raise InputError(f"{out}: is a file; give a new folder")
        if target.is_dir() and any(target.iterdir()):
            raise InputError(f"{out}: already exists and is not empty; remove it or give a new one")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{out}: cannot be written ({one_line(error)})") from None


def check_space(out: Path, needed: int) -> None:
    """Refuse before writing what the disk has no room for. What an unfinished run holds counts."""
    try:
        place = next(folder for folder in out.resolve().parents if folder.is_dir())
        free = shutil.disk_usage(place).free
        free += sum(_allocated(path) for path in _place_of(out).folder.rglob("*"))
    except OSError:
        return  # writing will say what is wrong
    if free < needed:
        raise InputError(f"{out}: needs {in_units(needed)}, the disk has {in_units(free)} free")


def _allocated(path: Path) -> int:
    try:
        stat = path.lstat()
    except OSError:
        return 0
    blocks: int = getattr(stat, "st_blocks", 0)  # unlike the size, true for files with holes
    return blocks * 512


def _place_of(out: Path) -> Staging:
    try:
        target = out.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{out}: cannot be written ({one_line(error)})") from None
    return Staging(out, target.parent / f".{target.name}.partial", target)


@contextmanager
def staging(out: Path, parent_folder: Path, order: Mapping[str, Any]) -> Iterator[Staging]:
    """The place of work for `out`, locked, and cleared if what it holds is another order's."""
    place = _place_of(out)
    with disk_errors(out):
        place.target.parent.mkdir(parents=True, exist_ok=True)
        place.folder.mkdir(exist_ok=True)
        _check_ours(place.folder)
        with _alone(place):
            check_target(parent_folder, out)  # a run that held the lock may just have finished
            _check_ours(place.folder)
            known = place.folder / _ORDER_FILE
            if not known.exists() or known.read_bytes() != _encoded(order):
                _clear(place.folder)
                write_atomic(known, _encoded(order))
            yield place


@contextmanager
def _alone(place: Staging) -> Iterator[None]:
    """Hold the place of work alone."""
    busy = f"{place.out}: another run is writing it; wait for it or stop it"
    with locked(place.folder, busy):
        yield


def _holds_work(folder: Path) -> bool:
    return any(path.name != LOCK_FILE for path in folder.iterdir())


def _check_ours(folder: Path) -> None:
    """Without a order file the folder may only hold what a run killed at its very start leaves."""
    if folder.is_symlink() or not folder.is_dir() or (folder / _ORDER_FILE).exists():
        return  # `locked` refuses what is no folder
    for path in folder.iterdir():
        if path.name != LOCK_FILE and not path.name.startswith(f".{_ORDER_FILE}."):
            raise InputError(
                f"{folder}: is in the way and was not made by this tool ({path.name}); move it"
            )


def _clear(folder: Path) -> None:
    """Empty the folder except for the order and lock files."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (_ORDER_FILE, LOCK_FILE):
            path.unlink()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """The disk's refusals as one line."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"{out}: cannot be written ({error.strerror or one_line(error)}{where}); "
            "what is finished is kept, run again to continue"
        ) from None


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove what an unfinished run left besides `names`."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
