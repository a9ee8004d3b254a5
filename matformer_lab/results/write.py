"""The one writer of a sweep folder's tables."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.own_files import check_replaceable
from matformer_lab.results.description import Description
from matformer_lab.results.files import (
    RECIPE_YAML,
    REPORT_FILES,
    REPORT_KIND,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SAMPLES,
    SLICES_JSON,
)
from matformer_lab.results.spreadsheet import spreadsheet_csv


class SamplesTable(NamedTuple):
    """The per-item outcomes of a slice on a task, to be written."""

    place: Path
    """Within the sweep folder (`files.samples_file`)."""
    table: Any
    """A pyarrow Table."""


def write_tables(
    folder: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    description: Description,
    recipe: str,
    samples: Iterable[SamplesTable],
) -> None:
    """Write every table of a finished sweep; results.parquet comes last and means "complete".

    What an earlier sweep left in the folder goes first, so that its scores never stand beside the
    new recipe.

    Args:
        folder: The sweep folder.
        rows: Of results.csv and results.parquet.
        description: Of the parent and the slices.
        recipe: The recipe as it ran, in YAML.
        samples: Per-item outcomes.

    Raises:
        InputError: When a picture or page in the folder is not ours to remove.
    """
    import pandas as pd

    for name in REPORT_FILES:
        check_replaceable(folder / name, REPORT_KIND)
    for name in (RESULTS_PARQUET, RESULTS_CSV, *REPORT_FILES):
        (folder / name).unlink(missing_ok=True)
    described = description.model_dump_json(indent=1, by_alias=True) + "\n"
    written = set()
    for place, table in samples:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _parquet_bytes(table))
        written.add(path)
    for path in sorted((folder / SAMPLES).glob("*/*.parquet")):
        if path not in written:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    write_atomic(folder / SLICES_JSON, described.encode())
    write_atomic(folder / RECIPE_YAML, recipe.encode())
    frame = pd.DataFrame(rows)
    write_atomic(folder / RESULTS_CSV, spreadsheet_csv(frame).encode())
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomic(folder / RESULTS_PARQUET, buffer.getvalue())


def _parquet_bytes(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
