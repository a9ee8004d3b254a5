"""Two scorings of the same slices on the same items, paired: two sweeps, or a sweep and a baseline.

Both sides answered the same items, so each slice is compared with itself item by item. All
comparisons form one family, whose intervals hold together (`statistics.study`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.statistics.outcomes import Outcomes
from matformer_lab.statistics.panel import Comparison
from matformer_lab.statistics.study import make_study


@dataclass(frozen=True)
class Asked:
    """What has to be the same for two scorings of a task to be comparable.

    Attributes:
        metric: The one that is compared.
        num_fewshot: Examples in each prompt; None: the task's own number.
        version: The task's; None: unknown.
        n: Items.
        items: sha256 (hex) over the items' ids, in order.
        prompt_hash: sha256 (hex) over questions and prompts; None: unknown.
    """

    metric: str
    num_fewshot: int | None
    version: str | None
    n: int
    items: str
    prompt_hash: str | None


class Sides(NamedTuple):
    """The outcomes of one task on both sides."""

    before: Outcomes
    after: Outcomes


def check_comparable(
    task: str, before: Asked, after: Asked, *, where: tuple[str, str], remedy: str
) -> None:
    """Check that both sides of a comparison were asked the same.

    Args:
        task: Its name, for the error.
        before: What one side was asked.
        after: What the other side was asked.
        where: Names of the two sides, in that order, for the error.
        remedy: What to do, for the error.

    Raises:
        InputError: When the two differ; it names the first difference.
    """
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
    """How one slice changed on one task, or on the average of all.

    Attributes:
        slice: Its name.
        task: Its name, or `study.AVERAGE`.
        before: Score, as a fraction.
        after: Score, as a fraction.
        n: Items.
        found: The comparison, after minus before.
    """

    slice: str
    task: str
    before: float
    after: float
    n: int
    found: Comparison


def changes(tasks: Mapping[str, Sides], slices: Sequence[str]) -> Iterator[Change]:
    """How each slice changed on each task.

    Args:
        tasks: Both sides' outcomes of each task, by name.
        slices: Names of the slices to compare.

    Yields:
        A change for every slice that a task has on both sides: tasks in their order, then their
        average where there are several.
    """
    stacked = {task: _stack(sides) for task, sides in tasks.items() if _common(sides)}
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


def _common(sides: Sides) -> list[str]:
    return [name for name in sides.before.slices if name in sides.after.slices]


def _stack(sides: Sides) -> Outcomes:
    """Both sides' outcomes of one task as the outcomes of twice as many slices."""
    before, after = sides
    both = _common(sides)
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
