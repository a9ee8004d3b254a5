"""Finished scores of (slice, task) on disk: each written once and whole, under a key of all
it rests on.

One parquet file holds one score: its table is the per-item outcomes, its metadata the key, the
metrics and how the run went. A file appears by rename, so a sweep killed at any moment leaves only
whole scores, and two sweeps that write the same score write the same file.
"""

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.atomic import write_atomic
from matformer_lab.evaluation.score import Metric, Score
from matformer_lab.sweep.key import Key

_FORMAT: Final = 1
_METADATA: Final = b"matformer_lab"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """How a score was made: recorded, but not part of its key."""

    seconds: float
    prompt_chars: int
    effective_params: int
    batch_size: int | str
    device_name: str
    finished: str
    """UTC, ISO 8601."""

    @property
    def cost(self) -> float:
        """What the seconds scale with: characters of prompt times effective parameters."""
        return float(self.prompt_chars) * self.effective_params


@dataclass(frozen=True)
class Entry:
    """A stored score without its items."""

    path: Path
    key: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    run: Run


class Store:
    """The folder `store/` of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Key) -> Entry | None:
        """The score stored under exactly this key."""
        entry = _read_entry(self._path(key))
        return entry if entry is not None and not key.differences(entry.key) else None

    def stale(self, key: Key) -> tuple[str, ...]:
        """How the nearest stored score of the same slice and task differs; empty if none is."""
        others = [
            key.differences(entry.key)
            for path in sorted(self._path(key).parent.glob(f"{key.slice[:16]}-*.parquet"))
            if (entry := _read_entry(path)) is not None
        ]
        return min(others, key=len, default=())

    def put(self, key: Key, score: Score, run: Run) -> None:
        """Write a finished score; on return it survives a kill or a power cut."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "key": asdict(key),
            "rows": [asdict(row) for row in score.metrics],
            "run": asdict(run),
        }
        write_atomic(path, _to_parquet(score.items, content))

    def items(self, key: Key) -> Any:
        """The per-item outcomes as a pyarrow Table (see `scoring.Score`)."""
        import pyarrow.parquet as pq

        table = pq.read_table(self._path(key), page_checksum_verification=True)
        return table.replace_schema_metadata(None)

    def entries(self) -> Iterator[Entry]:
        """Every readable score."""
        for path in sorted(self.folder.glob("*/*.parquet")):
            if (entry := _read_entry(path)) is not None:
                yield entry

    def _path(self, key: Key) -> Path:
        task = re.sub(r"[^A-Za-z0-9_-]+", "-", key.task)
        return self.folder / task / f"{key.slice[:16]}-{key.digest[:24]}.parquet"


def _to_parquet(items: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for item in items for name in item))
    table = pa.table({name: _column([item.get(name) for item in items]) for name in names})
    table = table.replace_schema_metadata({_METADATA: json.dumps(content).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _column(values: list[Any]) -> list[Any]:
    """One type in a column: answers may be numbers in one document and text in the next."""
    if len({type(value) for value in values if value is not None}) > 1:
        return [None if value is None else str(value) for value in values]
    return values


def _read_entry(path: Path) -> Entry | None:
    import pyarrow.parquet as pq

    try:
        content = json.loads(pq.read_schema(path).metadata[_METADATA])
        if content["format"] != _FORMAT:
            return None
        return Entry(
            path=path,
            key=content["key"],
            metrics=tuple(Metric(**row) for row in content["rows"]),
            run=Run(**content["run"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Renames keep our own writes whole, so this is a damaged disk or a foreign file. Scoring
        # again is right; trusting or deleting it is not.
        _log.warning("%s is no readable score and is left out: %s", path, error)
        return None
