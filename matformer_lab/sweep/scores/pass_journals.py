"""Where a sweep keeps what its unfinished passes have computed: a journal for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.version import __version__
from matformer_lab.sweep.jobs import Job

if TYPE_CHECKING:
    from matformer_lab.scoring.journal import FileJournal, SentJournal

_SUFFIX: Final = ".journal"


def journals_folder(store: Path) -> Path:
    """The folder of the journals of a sweep.

    Args:
        store: The folder of its store.
    """
    return store / "unfinished"


def journal_of(group: Sequence[Job], folder: Path) -> FileJournal:
    """The journal of a pass, bound to everything its scores depend on.

    Args:
        group: The jobs of the pass.
        folder: From `journals_folder`; made where it is missing.
    """
    from matformer_lab.scoring.journal import FileJournal

    keys = sorted(job.key.digest for job in group)
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return FileJournal(folder / (name + _SUFFIX), _names(group), _binding(group))


def sent_journal(
    group: Sequence[Job], earlier: Sequence[bytes], send: Callable[[bytes], None]
) -> SentJournal:
    """The journal of the same pass on another machine.

    Args:
        group: The jobs of the pass.
        earlier: The records of `journal_of` there.
        send: Called with each new record, for `append` there.
    """
    from matformer_lab.scoring.journal import SentJournal

    return SentJournal(_names(group), _binding(group), earlier, send)


def _names(group: Sequence[Job]) -> list[str]:
    return sorted(job.key.slice for job in group)


def _binding(group: Sequence[Job]) -> dict[str, Any]:
    return {"keys": sorted(job.key.digest for job in group), "matformer_lab": __version__}


def remove_journals(folder: Path) -> None:
    """Remove the journals of a sweep whose scores are all stored."""
    from matformer_lab.scoring.journal import is_journal

    for path in folder.glob(f"*{_SUFFIX}"):
        if not path.is_symlink() and path.is_file() and is_journal(path):
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
