"""Notices a parent that changes while it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matformer_lab.checkpoint.disk.staging import Staging
from matformer_lab.common.errors import InputError
from matformer_lab.common.version import __version__
from matformer_lab.parent.folder import read_config, read_layout
from matformer_lab.parent.parent import Parent


class ParentWatch:
    """Notices a parent that changes between the plan and the last byte read."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._state = self._look()
        folder = parent.local
        if read_config(folder) != parent.config or read_layout(folder) != parent.tensors:
            raise self._changed()

    def _look(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of every file read."""
        files = {info.file for info in self._parent.tensors.values()} | {"config.json"}
        try:
            stats = {file: (self._parent.local / file).stat() for file in sorted(files)}
        except OSError:
            raise self._changed() from None
        return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}

    def _changed(self) -> InputError:
        return InputError(f"{self._parent.ref}: changed while it was read; run again")

    @property
    def order(self) -> dict[str, Any]:
        """What an unfinished run's pieces must have been made from to be of use."""
        return {
            "matformer_lab": __version__,
            "parent": self._parent.fingerprint,
            "state": [*self._state.items()],
        }

    @contextmanager
    def reading(self, place: Staging) -> Iterator[None]:
        """Raise `InputError`, and throw away what was written, if the parent changed within."""
        try:
            yield
        except InputError:
            # A file that shrank reads as a damaged one. That it changed is the whole truth.
            self._check(place)
            raise
        self._check(place)

    def _check(self, place: Staging) -> None:
        if self._look() != self._state:
            place.discard()
            raise self._changed() from None
