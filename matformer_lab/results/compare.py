"""Two finished sweeps of the same slices on the same items, compared slice by slice.

Answers "what did this change do?": another dtype, another parent, another version of a library.
Within one sweep, `SweepResults.comparison` compares slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.results.pairing import Sides, changes, check_comparable
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults, TaskScores

if TYPE_CHECKING:
    import pandas as pd


def compare_sweeps(before: StrPath, after: StrPath) -> pd.DataFrame:
    """Compare two finished sweeps slice by slice, `after` minus `before`.

    Slices are matched by name and must have the same widths and skipped layers.

    Args:
        before: A finished sweep's folder.
        after: Another finished sweep's folder.

    Returns:
        A row for each slice and task that both have, and for the tasks' average where there are
        several. `before`, `after`, `difference`, `low` and `high` are in points, paired over items;
        `only_before` and `only_after` count the items that are right in one sweep only; `n` counts
        all items. `low` and `high` hold for all rows together (max-T bootstrap, see
        docs/statistics.md), and `separable` says whether they are clear of 0; `p_holm` is the exact
        McNemar p-value after Holm's correction.

    Raises:
        InputError: When a folder is not a finished sweep; when the two share no slice or task; when
            they differ in items, metric or few-shot count, or in a slice's widths.

    Examples:
        >>> import matformer_lab as ml
        >>> changes = ml.compare_sweeps("runs/demo", "runs/again")
        >>> (changes["before"] == changes["after"]).tolist()
        [True, True]
    """
    import pandas as pd

    first, second = read_sweep(before), read_sweep(after)
    names = _common_slices(first, second)
    others = {task.name: task for task in second.tasks}
    tasks = {
        task.name: _sides(task, others[task.name], first, second)
        for task in first.tasks
        if task.name in others
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
    """Names of the slices that both sweeps have."""
    others = {scored.name: scored.slice for scored in second.scored}
    common = [scored for scored in first.scored if scored.name in others]
    for scored in common:
        if others[scored.name].digest != scored.slice.digest:
            raise InputError(
                f"slice {scored.name}: {first.folder} and {second.folder} have different widths "
                "or skipped layers under this name; rename one of them"
            )
    return [scored.name for scored in common]


def _sides(old: TaskScores, new: TaskScores, first: SweepResults, second: SweepResults) -> Sides:
    """Both sweeps' outcomes of one task, after checking that they can be compared."""
    check_comparable(
        old.name,
        old.asked,
        new.asked,
        where=(str(first.folder), str(second.folder)),
        remedy="only scores of the same items, prompted the same way, can be compared",
    )
    if old.outcomes is None or new.outcomes is None:
        folder = first.folder if old.outcomes is None else second.folder
        raise InputError(f"{old.name}: {folder} has no per-item outcomes of this task to compare")
    return Sides(old.outcomes, new.outcomes)
