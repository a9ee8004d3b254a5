"""Finished scores on disk: each written once and whole, under the key of all it depends on.

One parquet file holds the score of one slice on one task: its table is the per-item outcomes, its
metadata the key, the metrics and how the run went. A file appears by rename, so a sweep that is
killed at any moment leaves only whole scores, and two sweeps that write the same score write the
same file.
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
    """How a score was computed: recorded, but not part of its key.

    Attributes:
        seconds: Of scoring; for a pass of several slices, this slice's share.
        prompt_chars: Characters of prompt.
        effective_params: Of the slice.
        batch_size: The recipe's.
        device_name: The hardware's name.
        finished: UTC, ISO 8601.
    """

    seconds: float
    prompt_chars: int
    effective_params: int
    batch_size: int | str
    device_name: str
    finished: str

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
    """The folder `store/` of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Key) -> Entry | None:
        """The score stored under exactly this key, if there is one."""
        entry = _read_entry(self._path(key))
        return entry if entry is not None and not key.differences(entry.key) else None

    def stale(self, key: Key) -> tuple[str, ...]:
        """How the nearest stored score of the same slice and task differs; empty without one."""
        others = [
            key.differences(entry.key)
            for path in sorted(self._path(key).parent.glob(f"{key.slice[:16]}-*.parquet"))
            if (entry := _read_entry(path)) is not None
        ]
        return min(others, key=len, default=())

    def put(self, key: Key, score: Score, run: Run) -> None:
        """Write a finished score; after that it survives a kill and a power failure."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "key": asdict(key),
            "rows": [asdict(metric) for metric in score.metrics],
            "run": asdict(run),
        }
        write_atomic(path, _to_parquet(score.items, content))

    def items(self, key: Key) -> Any:
        """The per-item outcomes of a stored score, as a pyarrow Table (`Score.items`).

        Raises:
            OSError: When the file is missing or damaged.
        """
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
    """The values in one type: answers may be numbers in one document and text in the next."""
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
            metrics=tuple(Metric(**metric) for metric in content["rows"]),
            run=Run(**content["run"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Renames keep our own writes whole, so the disk is damaged or the file is somebody else's:
        # score again, and neither trust the file nor delete it.
        _log.warning("%s cannot be read as a score and is ignored: %s", path, error)
        return None
