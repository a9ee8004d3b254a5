"""A row of results.parquet, read back and checked; results.csv must say the same."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.results.tables.parquet import read_parquet
from matformer_lab.results.tables.spreadsheet import as_text

_CLOSE: Final = 1e-9
"""How closely a number in text must match the number itself."""


def _whole(value: Any) -> Any:
    """A whole number that its column holds as a float, because another row has none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _absent(value: Any) -> Any:
    """None for what stands for "there is none": NaN, and lm-eval's "N/A"."""
    gone = value == "N/A" or (isinstance(value, float) and math.isnan(value))
    return None if gone else value


_Count = Annotated[int, BeforeValidator(_whole)]
_Absent = BeforeValidator(_absent)


class RowKey(NamedTuple):
    """Which score a row holds."""

    slice: str
    task: str
    group: str | None
    metric: str

    def __str__(self) -> str:
        return f"{self.slice} on {self.task} ({self.metric})"


class ResultRow(BaseModel):
    """One metric of one slice on one task."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    slice: str
    task: str
    metric: str
    value: float
    stderr: Annotated[float | None, _Absent]
    n: Annotated[_Count, Field(ge=1)]
    effective_params: _Count | None = None
    total_params: _Count | None = None
    num_fewshot: Annotated[_Count | None, _Absent] = None
    group: Annotated[str | None, _Absent] = None
    primary: bool | None = None
    higher_is_better: bool | None = True
    task_version: Annotated[str | None, _Absent] = None
    dtype: str | None = None
    device: str | None = None
    limit: Annotated[float | None, _Absent] = None
    seed: Annotated[_Count | None, _Absent] = None

    @property
    def key(self) -> RowKey:
        """Which score this is."""
        return RowKey(self.slice, self.task, self.group, self.metric)


def read_rows(path: Path) -> dict[RowKey, ResultRow]:
    """The rows of results.parquet by what they are the score of.

    Raises:
        InputError: When the table is missing or damaged, or a cell is not what its column holds
            (text or NaN for a score, say); names the score.
    """
    if not path.exists():
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep")
    table = read_parquet(path, list(ResultRow.model_fields))
    needed = {name for name, field in ResultRow.model_fields.items() if field.is_required()}
    if absent := needed - set(table.column_names):
        raise InputError(f"{path}: no column {', '.join(sorted(absent))}")
    rows: dict[RowKey, ResultRow] = {}
    for number, written in enumerate(table.to_pylist(), 1):
        try:
            row = ResultRow.model_validate(written)
        except ValidationError as error:
            which = f"{written['slice']} on {written['task']} ({written['metric']})"
            raise InputError(
                f"{path}: row {number}, {which}: {explain(error, ResultRow)}"
            ) from None
        if rows.setdefault(row.key, row) != row:
            raise InputError(f"{path}: {row.key} has two different scores")
    if not rows:
        raise InputError(f"{path}: no scores yet; let the sweep finish a task first")
    return rows


def check_csv(path: Path, rows: Sequence[ResultRow]) -> None:
    """Check that results.csv, where there is one, holds the same scores.

    Args:
        path: The file.
        rows: Of results.parquet.

    Raises:
        InputError: Naming the first score that differs.
    """
    if not path.exists():
        return
    try:
        text = io.StringIO(read_small(path).decode(), newline="")
        written = list(csv.DictReader(text, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    remedy = "run the sweep again to rewrite both"
    if len(written) != len(rows):
        raise InputError(
            f"{path}: has {len(written)} scores, results.parquet {len(rows)}; {remedy}"
        )
    for cells, row in zip(written, rows, strict=True):
        for name, value in (("value", row.value), ("stderr", row.stderr), ("n", row.n)):
            if not _says(cells.get(name), value):
                raise InputError(
                    f"{path}: {name} of {row.key} is {cells.get(name)}, "
                    f"but {value} in results.parquet; {remedy}"
                )
        for name, text_ in (("slice", row.slice), ("task", row.task), ("metric", row.metric)):
            if cells.get(name) not in (text_, as_text(text_)):
                raise InputError(
                    f"{path}: has a score of {cells.get(name)} where results.parquet has "
                    f"{row.key}; {remedy}"
                )


def _says(text: str | None, value: float | None) -> bool:
    if value is None:
        return text in (None, "", "nan", "N/A")
    try:
        return math.isclose(float(text or ""), value, rel_tol=_CLOSE, abs_tol=_CLOSE)
    except ValueError:
        return False
