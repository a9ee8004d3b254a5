"""A finished sweep's tables as DataFrames."""

from pathlib import Path
from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.results.files import RESULTS_PARQUET, SAMPLES
from matformer_lab.results.tables.parquet import read_parquet

if TYPE_CHECKING:
    import pandas as pd


def load_results(folder: StrPath) -> "pd.DataFrame":
    """The scores of a finished sweep.

    Args:
        folder: What `run_sweep` wrote.

    Returns:
        The table results.parquet: a row for each slice, task and metric.

    Raises:
        InputError: When the folder does not hold a finished sweep.

    Examples:
        >>> import matformer_lab as ml
        >>> results = ml.load_results("runs/demo")
        >>> results[results["primary"]][["slice", "task"]].values.tolist()
        [['e2b', 'tiny_boolq'], ['e4b', 'tiny_boolq']]
    """
    frame: pd.DataFrame = read_parquet(_complete(Path(folder)) / RESULTS_PARQUET).to_pandas()
    return frame


def load_samples(folder: StrPath, task: str | None = None) -> "pd.DataFrame":
    """The per-item outcomes of a finished sweep.

    Args:
        folder: What `run_sweep` wrote.
        task: A task of its recipe; None: all of them.

    Returns:
        A row for each slice and item.

    Raises:
        InputError: When the folder does not hold a finished sweep, or has no outcomes of the task.

    Examples:
        >>> import matformer_lab as ml
        >>> samples = ml.load_samples("runs/demo", "tiny_boolq")
        >>> samples.groupby("slice")["acc"].count().to_dict()
        {'e2b': 20, 'e4b': 20}
    """
    import pandas as pd

    paths = sorted((_complete(Path(folder)) / SAMPLES).glob(f"*/{task or '*'}.parquet"))
    if not paths:
        raise InputError(f"{folder}: no samples of task {task!r} in this sweep")
    frames = [read_parquet(path).to_pandas() for path in paths]
    both: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return both


def _complete(folder: Path) -> Path:
    if not (folder / RESULTS_PARQUET).is_file():
        raise InputError(
            f"{folder}: no finished sweep here ({RESULTS_PARQUET} is missing); "
            "running the same recipe again continues an unfinished one"
        )
    return folder
