"""Which files in a sweep's folder are the tool's own, and how they are replaced.

A folder is known as a sweep's by a marker, which holds the digest of every table and picture the
tool wrote there. A file is the tool's own while its content has a digest that the marker holds for
its place. Nothing else is ever removed or replaced: not a stranger's file under a name that the
tool uses, and not a file of the tool's that somebody edited.

The marker learns a digest before the file gets its name, and forgets the old one afterwards. So
whatever a kill or a power cut leaves is known too.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.atomic import (
    fsync_folder,
    make_folder,
    target_of_temporary,
    write_atomic,
    write_temporary,
)
from matformer_lab.common.files.disk_errors import disk_errors as common_disk_errors
from matformer_lab.common.files.locks import LOCK_FILE
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import open_regular, read_small
from matformer_lab.common.validation import explain
from matformer_lab.results.files import (
    MARKER,
    RECIPE_YAML,
    REPORT_FILES,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SAMPLES,
    SEARCH_FILES,
    SLICES_JSON,
    STORE,
    STORE_NAME,
)
from matformer_lab.results.unmarked import files_of_unmarked

_NAMED: Final = (RESULTS_PARQUET, RESULTS_CSV, SLICES_JSON, RECIPE_YAML, *REPORT_FILES)
_OWNED: Final = (*_NAMED, *SEARCH_FILES)
"""Besides outcomes and scores: a sweep writes some of these, a search all of them."""
_SAMPLES_PLACE: Final = re.compile(rf"{SAMPLES}/(?!\.)[^/\0]+/[^/\0]+\.parquet")
_CHUNK_BYTES: Final = 1 << 20


class _Marker(BaseModel):
    """The content of the marker file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: Literal["matformer_lab"] = "matformer_lab"
    kind: Literal["sweep"] = "sweep"
    format: Literal[1] = 1
    files: dict[str, tuple[str, ...]]

    @field_validator("files")
    @classmethod
    def _where_a_sweep_writes(cls, files: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for place in files:
            if place not in _OWNED and not _SAMPLES_PLACE.fullmatch(place):
                raise ValueError(f"lists {place!r}, where no sweep writes")
        return files


class OwnFiles:
    """The tool's own files in the folder of a sweep.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path, digests: Mapping[str, tuple[str, ...]]) -> None:
        """
        Args:
            folder: The folder.
            digests: Those that the file at each place may have, by place within the folder.
        """
        self.folder = folder
        self._digests = dict(digests)

    def check(self, places: Iterable[Path | str] = ()) -> None:
        """Check that nothing of a stranger's is where the tool writes, and nothing was edited.

        Args:
            places: Files to be written or removed, besides the tables and the report.

        Raises:
            InputError: Naming the first file that is in the way.
        """
        for place in dict.fromkeys((*_NAMED, *self._digests, *map(_posix, places))):
            self.check_place(place)
        _check_folder(self.folder / STORE)

    def check_place(self, place: Path | str) -> None:
        """As `check`, for one file alone."""
        path = self.folder / place
        for parent in list(Path(place).parents)[:-1]:
            _check_folder(self.folder / parent)
        if (path.is_symlink() or path.exists()) and not self.is_own(place):
            what = (
                "was changed after the sweep wrote it"
                if _posix(place) in self._digests
                else "is not the sweep's, and the sweep writes a file of this name"
            )
            raise InputError(
                f"{path}: {what}; move it away, or give the sweep another folder "
                "(nothing was overwritten)"
            )

    def is_own(self, place: Path | str) -> bool:
        """Whether the file at a place within the folder is there and has a known content."""
        path = self.folder / place
        known = self._digests.get(_posix(place), ())
        return bool(known) and path.is_file() and not path.is_symlink() and _digest(path) in known

    def changed(self) -> Iterator[str]:
        """What became of the tables and samples that the tool wrote, where it is not what it was.

        Yields:
            A line for each, which begins with the file's place.
        """
        for place in sorted(set(self._digests) - set(REPORT_FILES)):
            if not os.path.lexists(self.folder / place):
                yield f"{place}: was removed after the sweep wrote it"
            elif not self.is_own(place):
                yield f"{place}: was changed after the sweep wrote it"

    def samples(self) -> tuple[str, ...]:
        """The places of the per-item outcomes that the tool wrote."""
        return tuple(place for place in self._digests if place.startswith(f"{SAMPLES}/"))

    def save(self) -> None:
        """Write the marker."""
        marker = _Marker(files=self._digests)
        write_atomic(self.folder / MARKER, marker.model_dump_json(indent=1).encode() + b"\n")

    @contextmanager
    def new_files(self) -> Iterator["NewFiles"]:
        """New files, written beside their places; those not published are removed at the end."""
        files = NewFiles(self)
        try:
            yield files
        finally:
            files.discard()

    def _replaced(self, written: Mapping[str, tuple[Path, str]], gone: Iterable[str]) -> None:
        """Rename temporary files to their places, in their order, once `gone` is gone.

        The first of `gone` is gone before the others go, and the last new one gets its name when
        the others have theirs, after a power cut too.
        """
        removed = [place for place in dict.fromkeys(gone) if self.is_own(place)]
        before = dict(self._digests)
        for place, (_, digest) in written.items():
            self._digests[place] = tuple(dict.fromkeys((*before.get(place, ()), digest)))
        self.save()
        for number, place in enumerate(removed):
            (self.folder / place).unlink()
            if not number:  # the one that says "complete": what it lists goes after it
                fsync_folder((self.folder / place).parent)
        for folder in {Path(), *(Path(place).parent for place in removed)}:
            fsync_folder(self.folder / folder)
        *others, last = written
        for place in others:
            written[place][0].replace(self.folder / place)
        for folder in {folder for place in others for folder in Path(place).parents}:
            fsync_folder(self.folder / folder)
        written[last][0].replace(self.folder / last)
        fsync_folder((self.folder / last).parent)
        for place in removed:
            if place not in written:
                _remove_if_empty((self.folder / place).parent, self.folder)
        self._digests = {
            place: digests
            for place, digests in self._digests.items()
            if place not in removed and (self.folder / place).exists()
        } | {place: (digest,) for place, (_, digest) in written.items()}
        self.save()


class NewFiles:
    """Files that are written beside their places and then get their names together."""

    def __init__(self, own: OwnFiles) -> None:
        self._own = own
        self._written: dict[str, tuple[Path, str]] = {}

    def add(self, place: Path | str, data: bytes) -> None:
        """Write a file, not yet under its name.

        Args:
            place: Within the folder.
            data: Its content.
        """
        path = self._own.folder / place
        self._own.check_place(place)
        make_folder(path.parent)
        self._written[_posix(place)] = (write_temporary(path, data), blake3(data).hexdigest())

    def publish(self, gone: Iterable[Path | str] = ()) -> None:
        """Give every file its name, in the order in which they were added.

        Args:
            gone: Places of files to remove first, in this order, where they are the tool's own.
        """
        removed = [_posix(place) for place in gone]
        for place in (*self._written, *removed):
            self._own.check_place(place)
        self._own._replaced(self._written, removed)
        self._written = {}

    def discard(self) -> None:
        """Remove what was not published."""
        for place, (temporary, _) in self._written.items():
            temporary.unlink(missing_ok=True)
            _remove_if_empty((self._own.folder / place).parent, self._own.folder)
        self._written = {}


def own_files(folder: Path, *, is_sweep: bool = False) -> OwnFiles:
    """The tool's own files in a folder that is new, empty or a sweep's.

    Args:
        folder: The folder, which need not exist. Nothing is written.
        is_sweep: Whether the folder is known to hold a finished sweep, whoever made it.

    Raises:
        InputError: When the folder holds something, and nothing shows that it is a sweep's.
    """
    marker = folder / MARKER
    if marker.is_symlink() or marker.exists():
        written = strict_json(read_small(marker), str(marker))
        try:
            return OwnFiles(folder, _Marker.model_validate(written).files)
        except ValidationError as error:
            raise InputError(
                f"{marker}: {explain(error, _Marker)}; it is not as a sweep wrote it: give "
                "another folder"
            ) from None
    if _holds_nothing(folder):
        return OwnFiles(folder, {})
    proven = files_of_unmarked(folder)
    if proven is None and not is_sweep:
        raise InputError(
            f"{folder}: is not empty and holds no sweep; give a new or an empty folder"
        )
    digests = {place: (_digest(folder / place),) for place in sorted(proven or ())}
    return OwnFiles(folder, digests)


def disk_errors(folder: Path) -> AbstractContextManager[None]:
    """Turn an `OSError` raised inside into an `InputError` about the sweep's folder."""
    return common_disk_errors(folder, "finished scores are kept, run again to continue")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed sweep left at the places where it writes."""

    def is_named(name: str) -> bool:
        return name in (MARKER, *_OWNED)

    def is_samples(name: str) -> bool:
        return name.endswith(".parquet")

    def is_stored(name: str) -> bool:
        return STORE_NAME.fullmatch(name) is not None

    for pattern, is_ours in ((".*.tmp", is_named), (f"{SAMPLES}/*/.*.tmp", is_samples),
                             (f"{STORE}/*/.*.tmp", is_stored)):  # fmt: skip
        for path in sorted(folder.glob(pattern)):
            target = target_of_temporary(path.name)
            if target and is_ours(target) and path.is_file() and not path.is_symlink():
                path.unlink()


def _holds_nothing(folder: Path) -> bool:
    """Whether there is no more here than what a sweep leaves that was killed at its very start."""
    if not folder.exists():
        return True
    for path in folder.iterdir():
        if path.is_symlink():
            return False
        is_lock = path.name == LOCK_FILE and path.is_file() and not path.stat().st_size
        is_marker = path.is_file() and target_of_temporary(path.name) == MARKER
        is_store = path.name == STORE and path.is_dir() and not any(
            inner.is_symlink() or not inner.is_dir() for inner in path.rglob("*")
        )  # fmt: skip
        if not (is_lock or is_marker or is_store):
            return False
    return True


def _check_folder(path: Path) -> None:
    """Check that a folder within a sweep's is one, or is not there yet."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(
            f"{path}: a link or a file is where the sweep has a folder; move it away, or give the "
            "sweep another folder"
        )


def _remove_if_empty(folder: Path, but: Path) -> None:
    """Remove a folder that held files of ours, if it holds nothing any more."""
    try:
        while folder != but:
            folder.rmdir()
            folder = folder.parent
    except OSError:
        return


def _posix(place: Path | str) -> str:
    return place.as_posix() if isinstance(place, Path) else place


def _digest(path: Path) -> str:
    """blake3 (hex) of a file as it is now: the cache of digests is for parents."""
    hasher = blake3()
    try:
        with open_regular(path) as file:
            while piece := file.read(_CHUNK_BYTES):
                hasher.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
    return hasher.hexdigest()
