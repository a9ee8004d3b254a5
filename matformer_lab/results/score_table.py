"""A finished sweep's scores as a table of text."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from matformer_lab.results.load import load_results


def score_rows(folder: Path) -> list[tuple[str, ...]]:
    """A finished sweep's scores in percent, +- one standard error.

    Returns:
        The head, then a row for each slice.

    Raises:
        InputError: When the folder does not hold a finished sweep.
    """
    results = load_results(folder)
    shown = results[results["primary"]].to_dict("records")
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in shown))
    cells = {(row["slice"], row["task"], row["metric"]): row for row in shown}
    rows: list[tuple[str, ...]] = [("slice", "effective", *(f"{t} {m}" for t, m in tasks))]
    for name, effective in dict.fromkeys((row["slice"], row["effective_params"]) for row in shown):
        scores = [cells.get((name, task, metric)) for task, metric in tasks]
        rows.append((name, f"{effective:,}", *(_score(row) for row in scores)))
    return rows


def _score(row: Mapping[Hashable, Any] | None) -> str:
    if row is None:
        return ""
    if row["stderr"] is None:  # a single item has no standard error
        return f"{100 * row['value']:.1f}"
    return f"{100 * row['value']:.1f} ± {100 * row['stderr']:.1f}"
