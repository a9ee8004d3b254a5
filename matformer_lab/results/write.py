"""The one writer of a sweep folder's tables."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matformer_lab.results.files import (
    RECIPE_YAML,
    REPORT_FILES,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SLICES_JSON,
)
from matformer_lab.results.own_files import OwnFiles, disk_errors
from matformer_lab.results.tables.description import Description
from matformer_lab.results.tables.spreadsheet import spreadsheet_csv


class SamplesTable(NamedTuple):
    """The per-item outcomes of a slice on a task, to be written."""

    place: Path
    """Within the sweep folder (`files.samples_file`)."""
    table: Any
    """A pyarrow Table."""


def write_tables(
    own: OwnFiles,
    *,
    rows: Sequence[Mapping[str, Any]],
    description: Description,
    recipe: str,
    samples: Iterable[SamplesTable],
) -> None:
    """Write every table of a finished sweep; results.parquet comes last and means "complete".

    The tables of an earlier sweep stay as they are until the new ones are whole. Then they and
    their report go, so that no old score stands beside the new recipe.

    Args:
        own: The tool's own files in the sweep folder.
        rows: Of results.csv and results.parquet.
        description: Of the parent and the slices.
        recipe: The recipe as it ran, in YAML.
        samples: Per-item outcomes.

    Raises:
        InputError: When a file that is not the tool's is in the way, or the disk refuses.
    """
    import pandas as pd

    frame = pd.DataFrame(rows)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, write_page_checksum=True)
    described = description.model_dump_json(indent=1, by_alias=True) + "\n"
    with disk_errors(own.folder), own.new_files() as new:
        for place, table in samples:
            new.add(place, _parquet_bytes(table))
        new.add(SLICES_JSON, described.encode())
        new.add(RECIPE_YAML, recipe.encode())
        new.add(RESULTS_CSV, spreadsheet_csv(frame).encode())
        new.add(RESULTS_PARQUET, buffer.getvalue())
        new.publish(gone=(RESULTS_PARQUET, RESULTS_CSV, *REPORT_FILES, *own.samples()))


def _parquet_bytes(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()
