"""Where a sweep keeps what its unfinished passes have computed: a journal for each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.common.version import __version__
from matformer_lab.sweep.jobs import Job

if TYPE_CHECKING:
    from matformer_lab.scoring.journal import Journal

_SUFFIX: Final = ".journal"


def journals_folder(store: Path) -> Path:
    """The folder of the journals of a sweep.

    Args:
        store: The folder of its store.
    """
    return store / "unfinished"


def journal_of(group: Sequence[Job], folder: Path) -> Journal:
    """The journal of a pass, bound to everything its scores depend on.

    Args:
        group: The jobs of the pass.
        folder: From `journals_folder`; made where it is missing.
    """
    from matformer_lab.scoring.journal import FileJournal

    keys = sorted(job.key.digest for job in group)
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    binding = {"keys": keys, "matformer_lab": __version__}
    return FileJournal(folder / (name + _SUFFIX), sorted(job.key.slice for job in group), binding)


def remove_journals(folder: Path) -> None:
    """Remove the journals of a sweep whose scores are all stored."""
    from matformer_lab.scoring.journal import is_journal

    for path in folder.glob(f"*{_SUFFIX}"):
        if not path.is_symlink() and path.is_file() and is_journal(path):
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
