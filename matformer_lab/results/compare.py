"""Two finished sweeps of the same slices on the same items, compared slice by slice.

For the question "what did this change do": another dtype, another parent, another version of a
library. Within one sweep, `SweepResults.comparison` compares slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.results.pairing import changes, check_comparable
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults, TaskScores
from matformer_lab.statistics.outcomes import Outcomes

if TYPE_CHECKING:
    import pandas as pd


def compare_sweeps(before: StrPath, after: StrPath) -> pd.DataFrame:
    """Sweep `after` minus sweep `before`.

    Slices are matched by name and must have the same widths and skipped layers.

    Args:
        before: A finished sweep's folder.
        after: Another one's.

    Returns:
        A row for each slice and task that both have, and for the tasks' average where there are
        several: `slice, task, before, after, difference, low, high` in points, paired over items;
        `separable`; `only_before, only_after` (items right in one only); `p_holm`; `n`. `low` and
        `high` hold for all rows at once (max-T bootstrap, see docs/statistics.md); `p_holm` is an
        exact McNemar test after Holm.

    Raises:
        InputError: Where the two share nothing, or were scored on other items, with another metric
            or few-shot count.

    Example:
        >>> import matformer_lab as ml
        >>> ml.compare_sweeps("runs/float32", "runs/bfloat16")  # doctest: +SKIP
    """
    import pandas as pd

    first, second = read_sweep(before), read_sweep(after)
    names = _common_slices(first, second)
    scored = {task.name: task for task in second.tasks}
    tasks = {
        task.name: _sides(task, scored[task.name], first, second)
        for task in first.tasks
        if task.name in scored
    }
    if not names or not tasks:
        what = "slice" if not names else "task"
        raise InputError(f"{first.folder} and {second.folder} have no {what} in common")
    rows = [
        {
            "slice": change.slice,
            "task": change.task,
            "before": 100 * change.before,
            "after": 100 * change.after,
            "difference": 100 * change.found.difference,
            "low": 100 * change.found.low,
            "high": 100 * change.found.high,
            "separable": change.found.separable,
            "only_before": change.found.losses,
            "only_after": change.found.wins,
            "p_holm": change.found.p_holm,
            "n": change.n,
        }
        for change in changes(tasks, names)
    ]
    return pd.DataFrame(rows).convert_dtypes()


def _common_slices(first: SweepResults, second: SweepResults) -> list[str]:
    other = {one.name: one.slice for one in second.scored}
    names = [one.name for one in first.scored if one.name in other]
    for one in first.scored:
        if one.name in other and other[one.name].digest != one.slice.digest:
            raise InputError(
                f"slice {one.name}: {first.folder} and {second.folder} have different widths or "
                "skipped layers under this name; rename one of them"
            )
    return names


def _sides(
    old: TaskScores, new: TaskScores, first: SweepResults, second: SweepResults
) -> tuple[Outcomes, Outcomes]:
    """Both sweeps' outcomes of one task, once it is sure that they were asked the same."""
    check_comparable(
        old.name,
        old.asked,
        new.asked,
        where=(str(first.folder), str(second.folder)),
        remedy="only scores of the same items, asked alike, can be compared",
    )
    if old.outcomes is None or new.outcomes is None:
        folder = first.folder if old.outcomes is None else second.folder
        raise InputError(f"{old.name}: {folder} keeps no per-item outcomes of it to compare")
    return old.outcomes, new.outcomes
