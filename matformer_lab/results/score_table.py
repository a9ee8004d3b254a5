"""A finished sweep's scores as a table of text."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

from matformer_lab.results.load import load_results
from matformer_lab.results.published import COLUMN

PUBLISHED: Final = "(published, not measured)"
"""Follows a task's name over scores of the model card and of Google's table of slices."""


def score_rows(folder: Path) -> list[tuple[str, ...]]:
    """A finished sweep's scores in percent, +- one standard error.

    Scores that Google published come last, in columns of their own.

    Returns:
        The head, then a row for each slice.

    Raises:
        InputError: When the folder does not hold a finished sweep.
    """
    results = load_results(folder)
    shown = results[results["primary"]].to_dict("records")
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in shown))
    cells = {(row["slice"], row["task"], row["metric"]): row for row in shown}
    beside = [task for task in tasks if any(_published(cells.get((n, *task))) for n, *_ in cells)]
    titles = (f"{task} {PUBLISHED}" for task, _ in beside)
    head = ("slice", "effective", *(f"{t} {m}" for t, m in tasks), *titles)
    rows: list[tuple[str, ...]] = [head]
    for name, effective in dict.fromkeys((row["slice"], row["effective_params"]) for row in shown):
        scores = (_score(cells.get((name, *task))) for task in tasks)
        published = (_published(cells.get((name, *task))) for task in beside)
        rows.append((name, f"{effective:,}", *scores, *published))
    return rows


def _published(row: Mapping[Hashable, Any] | None) -> str:
    """A published score; a sweep of an earlier version has no column of them."""
    value = None if row is None else row.get(COLUMN)
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _score(row: Mapping[Hashable, Any] | None) -> str:
    if row is None:
        return ""
    if row["stderr"] is None:  # a single item has no standard error
        return f"{100 * row['value']:.1f}"
    return f"{100 * row['value']:.1f} ± {100 * row['stderr']:.1f}"
