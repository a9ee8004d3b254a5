"""What a slice is worth on the calibration items: measured once, kept in the sweep's store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matformer_lab.evaluation.agreement import KL
from matformer_lab.evaluation.answers import METRIC, AnswersTask
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.results.own_files import disk_errors
from matformer_lab.search.method.space import Pattern, entry_of, slice_of
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import SizedPlan, sizes_of
from matformer_lab.statistics.outcomes import Floats
from matformer_lab.sweep.bar import SweepBar
from matformer_lab.sweep.executors.base import Executor
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.scores.store import Store


@dataclass
class Measurements:
    """The slices that a search has measured, and the means to measure more.

    Attributes:
        sets: The recipe with each of the calibration sets as its one task (`AnswersTask` or
            `AgreementTask`); its slices do not matter. All slices are measured on the first set,
            the best on all.
        store: Where scores are kept.
        executor: Where they are computed.
        limit: Most evaluations: one slice on one set.
        deadline: `time.monotonic()` at which to stop; None: never.
        progress: Whether to show a bar.
        found: For each set, [items] the objective by pattern.
    """

    sets: tuple[Prepared, ...]
    store: Store
    executor: Executor
    limit: int
    deadline: float | None = None
    progress: bool = True
    found: tuple[dict[Pattern, Floats], ...] = ()

    def __post_init__(self) -> None:
        self.found = self.found or tuple({} for _ in self.sets)

    @property
    def done(self) -> int:
        """Evaluations so far, whether computed now or found in the store."""
        return sum(map(len, self.found))

    @property
    def left(self) -> int:
        """How many evaluations may follow."""
        return 0 if self.late else max(0, self.limit - self.done)

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def values(self) -> dict[Pattern, float]:
        """The objective of every slice on the first set."""
        weights = self.weights(1)
        return {pattern: float(items @ weights) for pattern, items in self.found[0].items()}

    def task_means(self) -> dict[Pattern, tuple[float, ...]]:
        """The objective of every slice on the first set, by task."""
        ends = np.cumsum([count for _, count in parts_of(self.tasks[0])])[:-1]
        return {
            pattern: tuple(float(part.mean()) for part in np.split(items, ends))
            for pattern, items in self.found[0].items()
        }

    def items(self, pattern: Pattern, sets: int = 1) -> Floats:
        """[items] The objective of a slice on the first so many sets."""
        return np.concatenate([found[pattern] for found in self.found[:sets]])

    def weights(self, sets: int = 1) -> Floats:
        """[items] What each item of the first sets counts: every task the same."""
        parts = [part for task in self.tasks[:sets] for part in parts_of(task)]
        total = {name: sum(count for other, count in parts if other == name) for name, _ in parts}
        return np.concatenate(
            [np.full(count, 1 / (total[name] * len(total))) for name, count in parts]
        )

    @property
    def tasks(self) -> tuple[LoadedTask, ...]:
        """The calibration sets."""
        return tuple(prepared.tasks[0] for prepared in self.sets)

    def difference(self, pattern: Pattern, other: Pattern, sets: int = 1) -> tuple[float, float]:
        """How much better a slice is than another on the same items, and its standard error."""
        weights = self.weights(sets)
        apart = self.items(pattern, sets) - self.items(other, sets)
        mean = float(apart @ weights)
        return mean, float(np.sqrt(((apart - mean) ** 2 * weights**2).sum()))

    def measure(self, patterns: Sequence[Pattern], of: int = 0) -> tuple[Pattern, ...]:
        """Measure as many of the patterns as may be, the first ones first.

        Args:
            patterns: To measure, where they are not yet.
            of: The number of the calibration set.

        Returns:
            Those of the patterns that are measured now, whether before or by this call.

        Raises:
            InputError: When a score cannot be computed.
        """
        found = self.found[of]
        new = [each for each in dict.fromkeys(patterns) if each not in found][: self.left]
        jobs = {pattern: self.job(pattern, of) for pattern in new}
        pending = [job for job in jobs.values() if self.store.get(job.key) is None]
        if pending:
            self._compute(pending, of)
        for pattern, job in jobs.items():
            if self.store.get(job.key) is not None:
                found[pattern] = objective(self.store.items(job.key))
        return tuple(each for each in dict.fromkeys(patterns) if each in found)

    def job(self, pattern: Pattern, of: int = 0) -> Job:
        """What has to be scored for a pattern on a calibration set."""
        prepared = self.sets[of]
        plan = make_plan(prepared.parent, slice_of(pattern, _name(pattern)))
        (job,) = replace(prepared, sized=(SizedPlan(plan, sizes_of(plan)),)).jobs
        return job

    def _compute(self, pending: Sequence[Job], of: int) -> None:
        needed = {job.key.slice: job.sized for job in pending}.values()
        entries = tuple(entry_of(sized.slice) for sized in needed)
        recipe = self.sets[of].recipe.model_copy(update={"slices": entries})
        prepared = self.executor.fetched(replace(self.sets[of], recipe=recipe, sized=tuple(needed)))
        with (
            SweepBar(pending, show=self.progress) as bar,
            closing(self.executor.scores(prepared, pending, bar.advance)) as scores,
        ):
            for scored in scores:
                with disk_errors(self.store.folder.parent):
                    self.store.put(scored.key, scored.score, scored.run)
                bar.stored(scored.key)
                if self.late:
                    return


def objective(items: Any) -> Floats:
    """[items] What a search makes as large as it can, from a stored score's items.

    The log-probability of the right answer; on a text, how little a slice diverges from the parent.

    Args:
        items: A pyarrow Table.
    """
    column, sign = (METRIC, 1.0) if METRIC in items.column_names else (KL, -1.0)
    return sign * np.asarray(items.column(column).to_pylist(), dtype=np.float64)


def parts_of(task: LoadedTask) -> tuple[tuple[str, int], ...]:
    """The number of a calibration set's items by task, in the order of the items."""
    return task.parts if isinstance(task, AnswersTask) else ((task.name, task.items),)


def _name(pattern: Pattern) -> str:
    """A name that nobody sees, except where a score fails."""
    import hashlib

    return "candidate-" + hashlib.sha256(str(pattern).encode()).hexdigest()[:8]
