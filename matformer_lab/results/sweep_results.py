"""A finished sweep in memory: what the figure, the page and the gate work from.

`read_sweep` reads it back from its folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matformer_lab.common.errors import InputError
from matformer_lab.results.description import ParentInfo, ScoredSlice
from matformer_lab.results.pairing import Asked
from matformer_lab.statistics.items_needed import items_needed
from matformer_lab.statistics.outcomes import Outcomes
from matformer_lab.statistics.panel import Panel, unpaired
from matformer_lab.statistics.ranking import rank
from matformer_lab.statistics.study import AVERAGE, Study, make_study

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"hellaswag": "HellaSwag", "boolq": "BoolQ", "mmlu": "MMLU", AVERAGE: "Average"}
_FEW = 2


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task as reported, and item by item where that is possible."""

    name: str
    metric: str
    num_fewshot: int | None
    n: int
    higher_is_better: bool
    slices: tuple[str, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    outcomes: Outcomes | None
    item_ids: tuple[str, ...]  # "subject/doc", in the order of the outcomes' columns
    subjects: tuple[str, ...]

    @property
    def asked(self) -> Asked:
        """What has to be the same for another scoring to be comparable."""
        items = hashlib.sha256("\n".join(self.item_ids).encode()).hexdigest()
        return Asked(self.metric, self.num_fewshot, self.n, items)


@dataclass(frozen=True)
class SweepResults:
    """One sweep folder."""

    folder: Path
    parent: ParentInfo
    scored: tuple[ScoredSlice, ...]  # from small to large
    tasks: tuple[TaskScores, ...]
    recipe: Mapping[str, Any]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, revisions and hashes of the run."""
        as_run = self.recipe.get("as_run")
        return as_run if isinstance(as_run, Mapping) else {}

    @cached_property
    def study(self) -> Study:
        """All paired comparisons of the sweep; seconds for a full-size one."""
        paired = {task.name: task.outcomes for task in self.tasks if task.outcomes is not None}
        return make_study(paired)

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """One panel a task, in the recipe's order, then the average where there is one."""
        panels = [
            self.study.panels.get(task.name)
            or unpaired(
                task.name,
                task.slices,
                task.values,
                task.stderrs,
                task.n,
                higher_is_better=task.higher_is_better,
            )
            for task in self.tasks
        ]
        average = self.study.panels.get(AVERAGE)
        return (*panels, average) if average is not None else tuple(panels)

    def title(self, panel: str) -> str:
        """A panel's name for people: task, few-shot count, metric."""
        title = TITLES.get(panel, panel)
        for task in self.tasks:
            if task.name == panel:
                shots = "" if task.num_fewshot is None else f", {task.num_fewshot}-shot"
                return f"{title}{shots}, {task.metric}"
        return f"{title} of {len(self.study.panels) - 1} tasks"

    @property
    def effective(self) -> dict[str, float]:
        return {one.name: float(one.effective) for one in self.scored}

    @property
    def whole(self) -> str | None:
        """The slice that is the parent itself, if it was scored."""
        for one in self.scored:
            if not one.slice.skipped and one.slice.widths == self.parent.intermediate_size:
                return one.name
        return None

    @property
    def nested(self) -> str | None:
        """The nested model the parent was trained with, published as E2B, if it was scored."""
        for one in self.scored:
            if "E2B" in str((one.published or {}).get("row", "")) or one.name == "e2b":
                return one.name
        return None

    @property
    def smallest(self) -> str | None:
        """The slice to mark at the small end: the nested E2B, else the smallest slice."""
        others = (one.name for one in self.scored if one.name != self.whole)
        return self.nested or next(others, None)

    def role(self, name: str) -> str | None:
        """What is special about a slice, in a word or two."""
        if name == self.whole:
            return "parent"
        if name != self.smallest:
            return None
        if name != self.nested:
            return "smallest"
        return "nested smallest" if name == self.scored[0].name else "nested E2B"

    @property
    def published_tasks(self) -> tuple[str, ...]:
        """Tasks that some slice has a published score for."""
        keys = {key for one in self.scored for key in (one.published or {})}
        return tuple(
            key
            for key in sorted(keys - {"row", "effective_params_b"})
            if any(one.published_score(key) is not None for one in self.scored)
        )

    @property
    def published_apart(self) -> dict[str, list[tuple[str, float, float]]]:
        """Published scores that need axes of their own, because this parent is another size:
        task -> (slice, effective parameters in billions, score); tasks with a few points only."""
        if self.published_fits:
            return {}
        apart = {
            task: [
                (one.name, float(one.published["effective_params_b"]), score)
                for one in self.scored
                if one.published and (score := one.published_score(task)) is not None
            ]
            for task in self.published_tasks
        }
        return {task: points for task, points in apart.items() if len(points) > _FEW}

    def scores(self) -> pd.DataFrame:
        """A row for each slice and panel, from small to large: score and its own interval in
        points, verdict, and by which slice it is dominated, if it is.
        """
        import pandas as pd

        rows = []
        for panel in self.panels:
            standing = rank(panel, self.effective)
            for i, name in enumerate(panel.slices):
                rows.append(
                    {
                        "slice": name,
                        "effective_params": int(self.effective[name]),
                        "task": panel.name,
                        "score": 100 * float(panel.values[i]),
                        "low": 100 * float(panel.intervals[i, 0]),
                        "high": 100 * float(panel.intervals[i, 1]),
                        "verdict": standing.verdicts[i],
                        "dominated_by": standing.dominated_by[i],
                    }
                )
        return pd.DataFrame(rows)

    def comparison(self, a: str, b: str) -> pd.DataFrame:
        """Slice `a` against `b`, a row for each panel that has both: difference and simultaneous
        interval in points, discordant items, p-value, and the items needed to separate the two.

        Raises InputError for a slice that the sweep does not have.
        """
        import pandas as pd

        known = [one.name for one in self.scored]
        for name in (a, b):
            if name not in known:
                raise InputError(f"{self.folder}: no slice {name!r}; it has {', '.join(known)}")
        rows = []
        for panel in self.panels:
            if a not in panel.slices or b not in panel.slices:
                continue
            found = panel.compare(a, b)
            needed = items_needed(panel, a, b)
            rows.append(
                {
                    "task": panel.name,
                    "difference": 100 * found.difference,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                    "separable": found.separable,
                    f"only {a}": found.wins,
                    f"only {b}": found.losses,
                    "p_holm": found.p_holm,
                    "items": needed.have,
                    "items_needed": needed.need,
                    "detectable": 100 * needed.detectable,
                }
            )
        return pd.DataFrame(rows).convert_dtypes()

    @property
    def published_fits(self) -> bool:
        """Are the published labels on the same scale as the measured sizes? Not for a miniature."""
        ratios = [
            one.effective / (one.published["effective_params_b"] * 1e9)
            for one in self.scored
            if one.published and "effective_params_b" in one.published
        ]
        return bool(ratios) and all(0.95 < ratio < 1.05 for ratio in ratios)
