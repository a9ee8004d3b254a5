"""Two finished sweeps of the same slices on the same items, compared slice by slice.

For the question "what did this change do": another dtype, another parent, another version of a
library. Within one sweep, `Finished.comparison` compares slices.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.results.finished import Finished, TaskScores
from matformer_lab.results.read_sweep import read_finished
from matformer_lab.statistics import frontier, paired

if TYPE_CHECKING:
    import pandas as pd

_BEFORE: Final = "before/"
_AFTER: Final = "after/"


def compare_sweeps(before: Path, after: Path) -> pd.DataFrame:
    """Sweep `after` minus sweep `before`, a row for each slice and task that both have.

    Slices are matched by name and must have the same widths and skipped layers. `difference` is in
    points, paired over items; `low` and `high` hold for all rows at once (max-T bootstrap, see
    docs/statistics.md), `p_holm` is an exact McNemar test after Holm. With several tasks their
    average has rows too. Raises InputError where the two share nothing, or were scored on other
    items, with another metric or few-shot count.
    """
    import pandas as pd

    first, second = read_finished(before), read_finished(after)
    names = _common_slices(first, second)
    scored = {task.name: task for task in second.tasks}
    stacked = {
        task.name: _stack(task, scored[task.name], names, first.folder, second.folder)
        for task in first.tasks
        if task.name in scored
    }
    if not names or not stacked:
        what = "slice" if not names else "task"
        raise InputError(f"{first.folder} and {second.folder} have no {what} in common")
    pairs = [(_AFTER + name, _BEFORE + name) for name in names]
    rows = []
    for panel in frontier.study(stacked, between=pairs).panels.values():
        for new, old in pairs:
            if new not in panel.slices:
                continue
            found = panel.compare(new, old)
            rows.append(
                {
                    "slice": old.removeprefix(_BEFORE),
                    "task": panel.name,
                    "before": 100 * float(panel.values[panel.index(old)]),
                    "after": 100 * float(panel.values[panel.index(new)]),
                    "difference": 100 * found.difference,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                    "separable": found.separable,
                    "only_before": found.losses,
                    "only_after": found.wins,
                    "p_holm": found.p_holm,
                    "n": panel.n,
                }
            )
    return pd.DataFrame(rows).convert_dtypes()


def _common_slices(first: Finished, second: Finished) -> list[str]:
    other = {member.name: member.slice for member in second.members}
    names = [member.name for member in first.members if member.name in other]
    for member in first.members:
        if member.name in other and other[member.name].digest != member.slice.digest:
            raise InputError(
                f"slice {member.name}: {first.folder} and {second.folder} have different widths or "
                "skipped layers under this name; rename one of them"
            )
    return names


def _stack(
    old: TaskScores, new: TaskScores, names: list[str], first: Path, second: Path
) -> paired.Outcomes:
    """Both sweeps' outcomes of one task as the outcomes of twice as many slices."""
    for what, a, b in (
        ("metric", old.metric, new.metric),
        ("num_fewshot", old.num_fewshot, new.num_fewshot),
        ("number of items", old.n, new.n),
    ):
        if a != b:
            raise InputError(
                f"{old.name}: {what} is {a} in {first} and {b} in {second}; "
                "only scores of the same items, asked alike, can be compared"
            )
    if old.outcomes is None or new.outcomes is None:
        folder = first if old.outcomes is None else second
        raise InputError(f"{old.name}: {folder} keeps no per-item outcomes of it to compare")
    if old.item_ids != new.item_ids:
        raise InputError(f"{old.name}: {first} and {second} were scored on different items")
    both = [name for name in names if name in old.slices and name in new.slices]
    return paired.Outcomes(
        slices=(*(_BEFORE + name for name in both), *(_AFTER + name for name in both)),
        scores=np.concatenate(
            [
                old.outcomes.scores[[old.slices.index(name) for name in both]],
                new.outcomes.scores[[new.slices.index(name) for name in both]],
            ]
        ),
        strata=old.outcomes.strata,
        weights=old.outcomes.weights,
    )
