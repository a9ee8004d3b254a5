"""Detects a parent that changes while it is being read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from matformer_lab.checkpoint.disk.staging import Staging
from matformer_lab.common.errors import InputError
from matformer_lab.common.version import __version__
from matformer_lab.parent.folder import open_folder
from matformer_lab.parent.parent import Parent


class _FileState(NamedTuple):
    """By which a changed file is recognised. Written to `order.json` as a list."""

    size: int
    mtime_ns: int


class ParentWatch:
    """Detects a parent that changes between planning and the last byte read."""

    def __init__(self, parent: Parent) -> None:
        """Record the state of the parent's files.

        Args:
            parent: A local parent.

        Raises:
            InputError: When its files have changed since it was opened.
        """
        self._parent = parent
        self._state = self._current_state()
        try:
            now = open_folder(parent.local, ref=parent.ref, name=parent.name)
        except InputError:
            raise self._changed() from None
        if (now.config, now.tensors) != (parent.config, parent.tensors):
            raise self._changed()

    def _current_state(self) -> dict[str, _FileState]:
        """The state of the config and of every weight file."""
        files = {info.file for info in self._parent.tensors.values()} | {"config.json"}
        try:
            stats = {file: (self._parent.local / file).stat() for file in sorted(files)}
        except OSError:
            raise self._changed() from None
        return {file: _FileState(stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}

    def _changed(self) -> InputError:
        return InputError(f"{self._parent.ref}: changed while it was read; run again")

    @property
    def order(self) -> dict[str, Any]:
        """The parent's share of an order (see `staging`): version, fingerprint, file states."""
        return {
            "matformer_lab": __version__,
            "parent": self._parent.fingerprint,
            "state": [*self._state.items()],
        }

    @contextmanager
    def reading(self, stage: Staging) -> Iterator[None]:
        """Discard what was written if the parent changed during the `with` block.

        Args:
            stage: The staging folder that is written to.

        Raises:
            InputError: When the parent changed.
        """
        try:
            yield
        except InputError:
            # A file that shrank is reported as damaged; that it changed is the real cause.
            self._check(stage)
            raise
        self._check(stage)

    def _check(self, stage: Staging) -> None:
        if self._current_state() != self._state:
            stage.discard()
            raise self._changed() from None
