"""Two scorings of the same slices on the same items, paired: two sweeps, or a sweep and a baseline.

Both sides answer the same items, so each slice is compared with itself item by item, and all
comparisons hold together (`statistics.study`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.statistics.outcomes import Outcomes
from matformer_lab.statistics.panel import Comparison
from matformer_lab.statistics.study import make_study


@dataclass(frozen=True)
class Asked:
    """What has to be the same for two scorings of a task to be comparable."""

    metric: str
    num_fewshot: int | None
    n: int
    items: str
    """sha256 (hex) over the items' ids, in order."""


def check_comparable(
    task: str, before: Asked, after: Asked, *, where: tuple[str, str], remedy: str
) -> None:
    """Raise `InputError` where the two were not asked the same; `where` names the two sides."""
    new = asdict(after)
    for key, old in asdict(before).items():
        if old == new[key]:
            continue
        if key == "items":
            what = f"{where[0]} and {where[1]} were scored on different items"
        else:
            what = f"{key} is {old} in {where[0]} and {new[key]} in {where[1]}"
        raise InputError(f"{task}: {what}; {remedy}")


@dataclass(frozen=True)
class Change:
    """A slice on a task (or on the average of all): scores as fractions, `found` after - before."""

    slice: str
    task: str
    before: float
    after: float
    n: int
    found: Comparison


def changes(
    tasks: Mapping[str, tuple[Outcomes, Outcomes]], slices: Sequence[str]
) -> Iterator[Change]:
    """How each of `slices` changed from the first outcomes of a task to the second.

    Tasks in their order, then their average where there are several; slices that a task has on
    both sides only.
    """
    stacked = {task: _stack(*sides) for task, sides in tasks.items() if _common(*sides)}
    study = make_study(stacked, between=[(_after(name), _before(name)) for name in slices])
    for panel in study.panels.values():
        for name in slices:
            if _after(name) not in panel.slices:
                continue
            yield Change(
                slice=name,
                task=panel.name,
                before=float(panel.values[panel.index(_before(name))]),
                after=float(panel.values[panel.index(_after(name))]),
                n=panel.n,
                found=panel.compare(_after(name), _before(name)),
            )


def _common(before: Outcomes, after: Outcomes) -> list[str]:
    return [name for name in before.slices if name in after.slices]


def _stack(before: Outcomes, after: Outcomes) -> Outcomes:
    """Both sides' outcomes of one task as the outcomes of twice as many slices."""
    both = _common(before, after)
    return Outcomes(
        slices=(*map(_before, both), *map(_after, both)),
        scores=np.concatenate(
            [
                before.scores[[before.slices.index(name) for name in both]],
                after.scores[[after.slices.index(name) for name in both]],
            ]
        ),
        strata=after.strata,
        weights=after.weights,
    )


def _before(name: str) -> str:
    return f"before/{name}"


def _after(name: str) -> str:
    return f"after/{name}"
