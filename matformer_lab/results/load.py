"""A finished sweep's tables as DataFrames."""

from pathlib import Path
from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.results.files import RESULTS_PARQUET, SAMPLES

if TYPE_CHECKING:
    import pandas as pd


def load_results(folder: StrPath) -> "pd.DataFrame":
    """results.parquet of a finished sweep as a DataFrame, one row per slice, task and metric."""
    import pandas as pd

    return pd.read_parquet(_complete(Path(folder)) / RESULTS_PARQUET)


def load_samples(folder: StrPath, task: str | None = None) -> "pd.DataFrame":
    """Per-item outcomes of a finished sweep: one row per slice and item (of `task`, or of all)."""
    import pandas as pd

    paths = sorted((_complete(Path(folder)) / SAMPLES).glob(f"*/{task or '*'}.parquet"))
    if not paths:
        raise InputError(f"{folder}: no samples of task {task!r} in this sweep")
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _complete(folder: Path) -> Path:
    if not (folder / RESULTS_PARQUET).is_file():
        raise InputError(
            f"{folder}: no finished sweep here ({RESULTS_PARQUET} is missing); "
            "running the same recipe again continues an unfinished one"
        )
    return folder
