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
    """Detects a checkpoint that changes between planning and the last byte read."""

    def __init__(self, parent: Parent, kv_from: Parent | None = None) -> None:
        """Record the state of the files that are read.

        Args:
            parent: A local parent.
            kv_from: Another local checkpoint that K/V are filled in from.

        Raises:
            InputError: When its files have changed since it was opened.
        """
        self._parent = parent
        self._read = [parent] if kv_from is None else [parent, kv_from]
        self._state = self._current_state()
        for one in self._read:
            try:
                now = open_folder(one.local, ref=one.ref, name=one.name)
            except InputError:
                raise _changed(one) from None
            if (now.config, now.tensors) != (one.config, one.tensors):
                raise _changed(one)

    def _current_state(self) -> list[dict[str, _FileState]]:
        """The state of the config and of every weight file, by checkpoint."""
        return [_state_of(one) for one in self._read]

    @property
    def order(self) -> dict[str, Any]:
        """The parent's share of an order (see `staging`): version, fingerprint, file states."""
        return {
            "matformer_lab": __version__,
            "parent": self._parent.fingerprint,
            "state": [[*state.items()] for state in self._state],
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
        for one, before in zip(self._read, self._state, strict=True):
            if _state_of(one) != before:
                stage.discard()
                raise _changed(one) from None


def _state_of(parent: Parent) -> dict[str, _FileState]:
    files = {info.file for info in parent.tensors.values()} | {"config.json"}
    try:
        stats = {file: (parent.local / file).stat() for file in sorted(files)}
    except OSError:
        raise _changed(parent) from None
    return {file: _FileState(stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _changed(parent: Parent) -> InputError:
    return InputError(f"{parent.ref}: changed while it was read; run again")
