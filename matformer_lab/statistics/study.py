"""All of a sweep's comparisons as one family: which slices are worth their size, and how surely.

Pure functions on arrays; no files, no plotting. Methods, with their sources, are in
`docs/statistics.md`; in one paragraph:

The score of a slice on a task is a weighted mean over items. Its own 95 % interval is Wilson's at
the effective sample size. Differences between two slices have an interval from a bootstrap over
items, stratified by subject, and all differences of a sweep (every pair of slices, every task, and
the average) form one family: the widths come from the bootstrap distribution of the largest |t|
(single-step max-T), so with 95 % confidence *all* of them hold at once. Verdicts are read off these
intervals. Exact McNemar p-values, with Holm's correction over the same pairs, stand beside them for
0/1 outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from matformer_lab.statistics.outcomes import Floats, Ints, Outcomes
from matformer_lab.statistics.paired import (
    LEVEL,
    PairIndices,
    Resampled,
    bootstrap,
    covariance,
    critical_value,
    difference_errors,
    discordant,
    holm,
    mcnemar,
    pseudo_variance,
    wilson,
)
from matformer_lab.statistics.panel import Panel

AVERAGE = "average"
"""The name of the panel over all tasks."""

REPLICATES = 10_000
SEED = 0


@dataclass(frozen=True)
class Study:
    """All panels of a sweep, compared as one family.

    Attributes:
        panels: By task, then `AVERAGE` where there are several tasks.
        critical: Half-width of a simultaneous interval, in standard errors; the same for all
            panels.
        comparisons: How many differences the family has.
        tests: How many McNemar tests Holm's correction counts.
        level: Confidence with which all intervals hold together.
        replicates: Bootstrap resamples.
        seed: Of the resampling.
    """

    panels: Mapping[str, Panel]
    critical: float
    comparisons: int
    tests: int
    level: float
    replicates: int
    seed: int


def make_study(
    tasks: Mapping[str, Outcomes],
    *,
    between: Sequence[tuple[str, str]] | None = None,
    average: Sequence[str] | None = None,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Study:
    """Compare all slices on every task and, where there are several tasks, on their average.

    The average is the plain mean of the tasks' scores, over the slices that have all of them; its
    resamples are the tasks' own.

    Args:
        tasks: The outcomes of each task, by name.
        between: The pairs of slices to compare (no other pair may then be asked for), which makes
            the intervals narrower; None: every pair.
        average: The tasks that are averaged; None: all of them.
        level: Confidence with which all intervals hold together.
        replicates: Bootstrap resamples.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    drafts = {name: _Draft.of(outcomes, replicates, rng) for name, outcomes in tasks.items()}
    averaged = [name for name in drafts if average is None or name in average]
    if len(averaged) > 1:
        everyone = [
            name
            for name in tasks[averaged[0]].slices
            if all(name in tasks[task].slices for task in averaged)
        ]
        if everyone:
            parts = [drafts[task] for task in averaged]
            drafts[AVERAGE] = _Draft.average(parts, tuple(everyone))

    pairs: dict[str, PairIndices] = {}
    for name, draft in drafts.items():
        at = {slice_: k for k, slice_ in enumerate(draft.slices)}
        wanted = between if between is not None else combinations(draft.slices, 2)
        chosen = [(at[a], at[b]) for a, b in wanted if a in at and b in at]
        left, right = np.array(chosen, dtype=np.int64).reshape(-1, 2).T
        pairs[name] = PairIndices(left, right)
    critical = critical_value(
        [Resampled(d.deviations, d.resampling_errors, *pairs[name]) for name, d in drafts.items()],
        level=level,
    )

    raw: dict[str, Floats] = {}
    for name, draft in drafts.items():
        if draft.wins is not None:
            left, right = pairs[name]
            raw[name] = mcnemar(draft.wins[left, right], draft.wins[right, left])
    adjusted = holm(np.concatenate(list(raw.values()))) if raw else np.empty(0)
    panels: dict[str, Panel] = {}
    done = 0
    for name, draft in drafts.items():
        p = p_holm = None
        if name in raw:
            count = len(raw[name])
            p = _symmetric(raw[name], pairs[name], len(draft.slices))
            p_holm = _symmetric(adjusted[done : done + count], pairs[name], len(draft.slices))
            done += count
        panels[name] = draft.panel(name, critical, level, p, p_holm)
    count = sum(len(left) for left, _ in pairs.values())
    return Study(panels, critical, count, len(adjusted), level, replicates, seed)


@dataclass(frozen=True)
class _Draft:
    """A panel before the family is judged."""

    slices: tuple[str, ...]
    n: int
    values: Floats
    covariance: Floats
    pseudo: float
    resampling_errors: Floats
    deviations: Floats
    wins: Ints | None

    @classmethod
    def of(cls, outcomes: Outcomes, replicates: int, rng: np.random.Generator) -> _Draft:
        return cls(
            slices=outcomes.slices,
            n=outcomes.n,
            values=outcomes.values,
            covariance=covariance(outcomes),
            pseudo=pseudo_variance(outcomes),
            resampling_errors=difference_errors(covariance(outcomes, ddof=0)),
            deviations=bootstrap(outcomes, replicates, rng),
            wins=discordant(outcomes) if outcomes.binary else None,
        )

    @classmethod
    def average(cls, drafts: Sequence[_Draft], slices: tuple[str, ...]) -> _Draft:
        count = len(drafts)
        at = [np.array([draft.slices.index(name) for name in slices]) for draft in drafts]
        chosen = list(zip(drafts, at, strict=True))
        squares = [d.resampling_errors[np.ix_(k, k)] ** 2 for d, k in chosen]
        return cls(
            slices=slices,
            n=sum(d.n for d in drafts),
            values=np.mean([d.values[k] for d, k in chosen], axis=0),
            covariance=np.sum([d.covariance[np.ix_(k, k)] for d, k in chosen], axis=0) / count**2,
            pseudo=sum(d.pseudo for d in drafts) / count**2,
            resampling_errors=np.sqrt(np.sum(squares, axis=0)) / count,
            deviations=np.mean([d.deviations[:, k] for d, k in chosen], axis=0),
            wins=None,
        )

    def panel(
        self, name: str, critical: float, level: float, p: Floats | None, p_holm: Floats | None
    ) -> Panel:
        stderrs = np.sqrt(np.diag(self.covariance))
        differences = self.values[:, None] - self.values[None, :]
        errors = np.sqrt(difference_errors(self.covariance) ** 2 + self.pseudo)
        np.fill_diagonal(errors, 0.0)
        ends = zip(self.values, stderrs, strict=True)
        return Panel(
            name=name,
            slices=self.slices,
            n=self.n,
            critical=critical,
            values=self.values,
            stderrs=stderrs,
            intervals=np.array([wilson(v, se, self.n, level=level) for v, se in ends]),
            differences=differences,
            errors=errors,
            wins=self.wins,
            p=p,
            p_holm=p_holm,
            deviations=self.deviations,
        )


def _symmetric(values: Floats, pairs: PairIndices, size: int) -> Floats:
    """A value per pair as a matrix: 1 on the diagonal, NaN for pairs that were not compared."""
    full: Floats = np.full((size, size), np.nan)
    np.fill_diagonal(full, 1.0)
    full[pairs.left, pairs.right] = full[pairs.right, pairs.left] = values
    return full
