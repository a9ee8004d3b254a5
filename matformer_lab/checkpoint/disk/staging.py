"""A folder that appears under its final name only once complete, and whose writing can be resumed.

Everything is written to a staging folder, `.NAME.partial`, beside the target. It holds `order.json`
(a description of what is being written), the future target folder `files`, and whatever else the
writing needs. A run locks the staging folder while it works in it. A killed run leaves it behind;
the next run continues there if its order is the same, and clears the folder otherwise.
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

    def publish(self) -> None:
        """Durably rename `files` to the target and remove the staging folder."""
        files = self.files
        fsync_folder(files)
        if self.target.is_dir():
            self.target.rmdir()  # fails unless the folder is empty
        files.rename(self.target)
        fsync_folder(self.target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the staging folder.

        `order.json` goes late: by it a later run recognises the folder as made by this tool.
        """
        _clear(self.folder)
        (self.folder / _ORDER_FILE).unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows does not remove open files
            (self.folder / LOCK_FILE).unlink(missing_ok=True)
            self.folder.rmdir()


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
    with disk_errors(out):
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
    return json.dumps(order).encode()


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
    return Staging(out, target.parent / f".{target.name}.partial", target)


@contextmanager
def staging(out: Path, parent_folder: Path, order: Mapping[str, Any]) -> Iterator[Staging]:
    """Lock the staging folder of `out` and clear it if it belongs to a different order.

    Args:
        out: The target folder.
        parent_folder: The parent's folder, which must not contain `out`.
        order: Everything that determines what is written, as JSON values. Files of an unfinished
            run are reused only if its order was the same.

    Yields:
        The staging folder, for the caller to fill and to `publish`.

    Raises:
        InputError: When `out` cannot be used, the disk fails, another run is writing `out`, or the
            staging folder's name is taken by something that this tool did not make.
    """
    stage = _staging_of(out)
    with disk_errors(out):
        stage.target.parent.mkdir(parents=True, exist_ok=True)
        stage.folder.mkdir(exist_ok=True)
        _check_ours(stage.folder)
        with _exclusive(stage):
            check_target(parent_folder, out)  # a run that held the lock may just have finished
            _check_ours(stage.folder)
            known = stage.folder / _ORDER_FILE
            if not known.exists() or known.read_bytes() != _encoded(order):
                _clear(stage.folder)
                write_atomic(known, _encoded(order))
            yield stage


@contextmanager
def _exclusive(stage: Staging) -> Iterator[None]:
    """Hold the lock of the staging folder."""
    busy = f"{stage.out}: another run is writing it; wait for it or stop it"
    with locked(stage.folder, busy):
        yield


def _holds_work(folder: Path) -> bool:
    return any(path.name != LOCK_FILE for path in folder.iterdir())


def _check_ours(folder: Path) -> None:
    """Refuse a folder without `order.json`, unless it holds what a run killed early leaves."""
    if folder.is_symlink() or not folder.is_dir() or (folder / _ORDER_FILE).exists():
        return  # `locked` refuses links and files
    for path in folder.iterdir():
        if path.name != LOCK_FILE and not path.name.startswith(f".{_ORDER_FILE}."):
            raise InputError(
                f"{folder}: is in the way and was not made by this tool (it holds {path.name}); "
                "move it"
            )


def _clear(folder: Path) -> None:
    """Remove everything from the folder except the order and lock files."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (_ORDER_FILE, LOCK_FILE):
            path.unlink()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn an `OSError` raised inside into an `InputError` about `out`."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"{out}: cannot be written ({error.strerror or one_line(error)}{where}); finished "
            "files are kept, run again to continue"
        ) from None


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove every file in `folder` that is not one of `names`."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
