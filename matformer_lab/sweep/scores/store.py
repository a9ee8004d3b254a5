"""Finished scores on disk: each written once and whole, under the key of all it depends on.

One file (`results.score_file`) holds the score of one slice on one task: the per-item outcomes, the
key, the metrics and how the run went. A file appears by rename, so a sweep that is killed at any
moment leaves only whole scores, and two sweeps that write the same score write the same file.
"""

import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.atomic import make_folder, write_atomic
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.evaluation.score import Metric, Score
from matformer_lab.results.tables.score_file import (
    MAX_SCORE_BYTES,
    content_of,
    parse_score,
    score_bytes,
)
from matformer_lab.sweep.scores.key import Key

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """How a score was computed: recorded, but not part of its key.

    Attributes:
        seconds: Of scoring; for a pass of several slices, this slice's share.
        prompt_chars: Characters of prompt.
        effective_params: Of the slice.
        batch_size: The recipe's.
        device_name: The hardware's name.
        finished: UTC, ISO 8601.
        budgets: How batches were bounded and run (`TokenBudget`), in this order; None where that
            does not depend on the machine's accelerator, or was not recorded.
    """

    seconds: float
    prompt_chars: int
    effective_params: int
    batch_size: int | str
    device_name: str
    finished: str
    budgets: Sequence[Mapping[str, Any]] | None = None

    @property
    def cost(self) -> float:
        """What the seconds are proportional to, as `Job.cost`."""
        return float(self.prompt_chars) * self.effective_params


@dataclass(frozen=True)
class Entry:
    """A stored score, without its per-item outcomes."""

    path: Path
    key: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    run: Run


class Store:
    """The folder `store/` of a sweep.

    An incomplete or damaged file counts as absent and is named once, in the log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: set[Path] = set()

    def get(self, key: Key) -> Entry | None:
        """The score stored under exactly this key, if there is one."""
        found = self._find(key)
        return found and found.entry

    def stale(self, key: Key) -> tuple[str, ...]:
        """How the nearest stored score of the same slice and task differs; empty without one."""
        others = [
            key.differences(stored.entry.key)
            for path in sorted(self._folder_of(key).glob(f"{key.slice[:16]}-*.parquet"))
            if (stored := self._read(path)) is not None
        ]
        return min(others, key=len, default=())

    def put(self, key: Key, score: Score, run: Run) -> None:
        """Write a finished score; after that it survives a kill and a power failure.

        A damaged file is replaced if it carries this very key. A file that does not is left alone:
        it is not the tool's, or nothing shows that it is.

        Raises:
            OSError: The disk refuses.
        """
        path = next(path for path in self._names(key) if _is_free(path, key))
        make_folder(path.parent)
        content = {
            "key": key.fields,
            "rows": [asdict(metric) for metric in score.metrics],
            "run": {name: value for name, value in asdict(run).items() if value is not None},
        }
        write_atomic(path, score_bytes(score.items, content))

    def items(self, key: Key) -> Any:
        """The per-item outcomes of a stored score, as a pyarrow Table (`Score.items`).

        Raises:
            InputError: When the score is not there, or was damaged meanwhile.
        """
        found = self._find(key)
        if found is None:
            raise InputError(
                f"{self.folder}: a score of {key.task} was removed or damaged meanwhile; run again"
            )
        return found.items

    def entries(self) -> Iterator[Entry]:
        """Every whole score."""
        for path in sorted(self.folder.glob("*/*.parquet")):
            if (stored := self._read(path)) is not None:
                yield stored.entry

    def _find(self, key: Key) -> "_Stored | None":
        for path in itertools.takewhile(os.path.lexists, self._names(key)):
            stored = self._read(path)
            if stored is not None and not key.differences(stored.entry.key):
                return stored
        return None

    def _folder_of(self, key: Key) -> Path:
        return self.folder / re.sub(r"[^A-Za-z0-9_-]+", "-", key.task)

    def _names(self, key: Key) -> Iterator[Path]:
        """Where the score may lie: further names are for when a file is in the way."""
        name = f"{key.slice[:16]}-{key.digest[:24]}"
        for number in itertools.count(1):
            further = f"-{number}" if number > 1 else ""
            yield self._folder_of(key) / f"{name}{further}.parquet"

    def _read(self, path: Path) -> "_Stored | None":
        """The score in a file, checked to the last bit; None where there is no whole one."""
        try:
            content, items = parse_score(read_small(path, MAX_SCORE_BYTES))
            entry = Entry(
                path=path,
                key=content["key"],
                metrics=tuple(Metric(**row) for row in content["rows"]),
                run=Run(**content["run"]),
            )
            return _Stored(entry, items)
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Renames keep our own writes whole, so this is a damaged disk or a foreign file.
            # Scoring again is right; trusting or deleting it is not.
            if path.exists() and path not in self._named:
                self._named.add(path)
                _log.warning("%s is not a complete score and is ignored: %s", path, one_line(error))
            return None


class _Stored(NamedTuple):
    """A stored score with its per-item outcomes, a pyarrow Table."""

    entry: Entry
    items: Any


def _is_free(path: Path, key: Key) -> bool:
    """Whether a score may be written here: over nothing, or over a damaged one of the same key."""
    if not os.path.lexists(path):
        return True
    if path.is_symlink():
        return False
    try:
        return not key.differences(content_of(read_small(path, MAX_SCORE_BYTES))["key"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
