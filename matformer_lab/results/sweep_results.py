"""A finished sweep in memory: what the figure, the page and the gate work from.

`read_sweep` reads it back from its folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.results.pairing import Asked
from matformer_lab.results.published import card_score, nested_model, sizes_fit, slice_score
from matformer_lab.results.tables.description import ParentInfo, ScoredSlice
from matformer_lab.results.tables.recipe_as_run import AGREEMENT, mixed_modes
from matformer_lab.statistics.outcomes import Outcomes
from matformer_lab.statistics.panel import Panel, unpaired
from matformer_lab.statistics.ranking import rank
from matformer_lab.statistics.sample_size import items_needed
from matformer_lab.statistics.study import AVERAGE, Study, make_study

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "hellaswag": "HellaSwag",
    "boolq": "BoolQ",
    "mmlu": "MMLU",
    AGREEMENT: "Agreement",
    AVERAGE: "Average",
}
_FEW = 2  # published points; up to here they get no chart of their own


class PublishedPoint(NamedTuple):
    """A published score that was not measured here.

    Attributes:
        name: The slice's.
        effective_b: Effective parameters as published, in billions.
        score: As a fraction.
    """

    name: str
    effective_b: float
    score: float


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task as reported, and item by item where that is possible.

    Attributes:
        name: The task's.
        metric: The one that is shown.
        num_fewshot: Examples in each prompt; None: the task's own number.
        n: Items.
        higher_is_better: Whether a larger score is better.
        slices: Those that have a score, in the order of the next fields.
        values: Scores as lm-eval reports them: fractions for most metrics.
        stderrs: Their standard errors, NaN where lm-eval gives none.
        outcomes: What each slice scored on each item; None where that was not kept, or where the
            metric is not a mean over items.
        item_ids: "subject/doc", in the order of the outcomes' columns; empty without outcomes.
        subjects: Of the items, likewise.
        lm_eval_name: What lm-eval calls the task; None: as the results do.
        version: The task's, as lm-eval has it; None where the sweep does not say.
        prompt_hash: sha256 (hex) over questions and prompts; None where the sweep does not say.
    """

    name: str
    metric: str
    num_fewshot: int | None
    n: int
    higher_is_better: bool
    slices: tuple[str, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    outcomes: Outcomes | None
    item_ids: tuple[str, ...]
    subjects: tuple[str, ...]
    lm_eval_name: str | None = None
    version: str | None = None
    prompt_hash: str | None = None

    @property
    def asked(self) -> Asked:
        """What has to be the same for another scoring to be comparable."""
        items = hashlib.sha256("\n".join(self.item_ids).encode()).hexdigest()
        return Asked(self.metric, self.num_fewshot, self.version, self.n, items, self.prompt_hash)


@dataclass(frozen=True)
class SweepResults:
    """A finished sweep in memory, as `read_sweep` returns it.

    Attributes:
        folder: Where it was read from.
        parent: The model that was sliced.
        scored: The slices that have scores, from small to large.
        tasks: Their scores, in the recipe's order.
        recipe: The recipe as it ran.
        dtype: Of weights and activations while scoring; None where the sweep does not say.

    Examples:
        >>> import matformer_lab as ml
        >>> sweep = ml.read_sweep("runs/demo")
        >>> sweep.scores()[["slice", "task"]].values.tolist()
        [['e2b', 'tiny_boolq'], ['e4b', 'tiny_boolq']]
        >>> sweep.comparison("e2b", "e4b")["difference"].round(1).tolist()
        [-5.0]
    """

    folder: Path
    parent: ParentInfo
    scored: tuple[ScoredSlice, ...]
    tasks: tuple[TaskScores, ...]
    recipe: Mapping[str, Any]
    dtype: str | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, revisions and hashes of the run; empty if the recipe has none."""
        as_run = self.recipe.get("as_run")
        return as_run if isinstance(as_run, Mapping) else {}

    @property
    def mixed_modes(self) -> list[str]:
        """A sentence for each task whose scores were computed in several modes."""
        return mixed_modes(self.provenance)

    @cached_property
    def study(self) -> Study:
        """All paired comparisons of the sweep; takes seconds for a full-size one."""
        paired = {task.name: task.outcomes for task in self.tasks if task.outcomes is not None}
        return make_study(paired, average=[name for name in paired if name != AGREEMENT])

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """A panel for each task, in the recipe's order, then the average where there is one."""
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
        """A panel's title for people: task, few-shot count, metric."""
        title = TITLES.get(panel, panel)
        for task in self.tasks:
            if task.name == panel:
                shots = "" if task.num_fewshot is None else f", {task.num_fewshot}-shot"
                return f"{title}{shots}, {task.metric}"
        count = sum(name not in (AGREEMENT, AVERAGE) for name in self.study.panels)
        return f"{title} of {count} tasks"

    @property
    def effective(self) -> dict[str, float]:
        """Effective parameters by slice."""
        return {scored.name: float(scored.effective) for scored in self.scored}

    @property
    def whole(self) -> str | None:
        """The slice that is the parent itself, if it was scored."""
        for scored in self.scored:
            if nested_model(self.parent, scored) == "e4b":
                return scored.name
        return None

    @property
    def nested(self) -> str | None:
        """The nested model the parent was trained with, published as E2B, if it was scored."""
        for scored in self.scored:
            row = str((scored.published or {}).get("row", ""))
            if "E2B" in row or nested_model(self.parent, scored) == "e2b":
                return scored.name
        return None

    @property
    def smallest(self) -> str | None:
        """The slice to mark at the small end: the nested E2B, else the smallest slice."""
        others = (scored.name for scored in self.scored if scored.name != self.whole)
        return self.nested or next(others, None)

    def role(self, name: str) -> str | None:
        """What is special about a slice, in a word or two; None for most."""
        if name == self.whole:
            return "parent"
        if name != self.smallest:
            return None
        if name != self.nested:
            return "smallest"
        return "nested smallest" if name == self.scored[0].name else "nested E2B"

    @cached_property
    def published(self) -> Mapping[str, Mapping[str, float]]:
        """Published scores by task and slice, as fractions: none of them was measured here.

        Those of tasks that the sweep does not have are among them.
        """
        found: dict[str, dict[str, float]] = {}
        for scored in self.scored:
            for task in self.tasks:
                score = card_score(self.parent, scored, task.name, task.metric, task.num_fewshot)
                if score is not None:
                    found.setdefault(task.name, {})[scored.name] = score
            for key in (scored.published or {}).keys() - {"row", "effective_params_b"}:
                score = slice_score(self.parent, scored, key)
                if score is not None:
                    found.setdefault(key, {}).setdefault(scored.name, score)
        return found

    @property
    def published_tasks(self) -> tuple[str, ...]:
        """Tasks for which some slice has a published score: the sweep's own in its order first."""
        own = [task.name for task in self.tasks if task.name in self.published]
        return (*own, *sorted(self.published.keys() - set(own)))

    @property
    def published_apart(self) -> dict[str, list[PublishedPoint]]:
        """Published scores that need axes of their own, by task.

        They do where this parent has another size than the published one. Tasks with no more than
        two points are left out.
        """
        if self.published_fits:
            return {}
        apart = {
            task: [
                PublishedPoint(scored.name, float(scored.published["effective_params_b"]), score)
                for scored in self.scored
                if scored.published and (score := self.published[task].get(scored.name)) is not None
            ]
            for task in self.published_tasks
        }
        return {task: points for task, points in apart.items() if len(points) > _FEW}

    def scores(self) -> pd.DataFrame:
        """Every score with its verdict.

        Returns:
            A row for each slice and panel, slices from small to large: `score`, `low` and `high`
            (the score's own 95 % interval) in points, `verdict`, and `dominated_by`, the slice that
            dominates this one, if any.
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
        """Slice `a` minus slice `b`.

        Returns:
            A row for each panel that has both: `difference` and its simultaneous interval `low` to
            `high` in points; whether the two are `separable`; the items that only one of them gets
            right; `p_holm`; `items` at hand and `items_needed` to separate the two; and the
            smallest difference `detectable` with the items at hand, in points.

        Raises:
            InputError: When the sweep does not have one of the slices.
        """
        import pandas as pd

        known = [scored.name for scored in self.scored]
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
        """Whether the published sizes are those of this parent's slices."""
        return sizes_fit(self.parent, self.scored)
