"""Size/quality frontier: which slices are worth their size, and how sure are we.

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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matformer_lab.statistics.paired import (
    LEVEL,
    Floats,
    Ints,
    Outcomes,
    bootstrap,
    covariance,
    critical_value,
    difference_errors,
    discordant,
    holm,
    mcnemar,
    normal_quantile,
    pseudo_variance,
    wilson,
)

Bools = NDArray[np.bool_]
Verdict = Literal["on the frontier", "not separable", "dominated"]

AVERAGE = "average"
REPLICATES = 10_000
SEED = 0


# --- the frontier ---


def pareto(sizes: Sequence[float] | Floats, scores: Sequence[float] | Floats) -> Bools:
    """True where no slice is at most as large and at least as good, and better in one of the two.

    `scores` may have leading axes (replicates, slices); sizes are (slices,).
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    scores = np.asarray(scores, dtype=np.float64)
    keep: Bools = np.zeros(scores.shape, dtype=np.bool_)
    best = np.full(scores.shape[:-1], -np.inf)
    for size in np.unique(sizes):
        here = np.flatnonzero(sizes == size)
        top = scores[..., here].max(axis=-1)
        keep[..., here] = (scores[..., here] == top[..., None]) & (top > best)[..., None]
        best = np.maximum(best, top)
    return keep


@dataclass(frozen=True)
class Comparison:
    """Slice `a` minus slice `b` on one panel. Scores are fractions."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    wins: int | None = None  # items only `a` gets right; None where outcomes are not 0/1
    losses: int | None = None
    p: float | None = None  # exact McNemar
    p_holm: float | None = None

    @property
    def separable(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Panel:
    """One task (or the average of all) with everything that was concluded about it; arrays follow
    `slices`.
    """

    name: str
    slices: tuple[str, ...]
    n: int
    values: Floats
    stderrs: Floats
    intervals: Floats  # (slices, 2), each score by itself
    differences: Floats  # [i, j] = score i - score j, times sign: how much better i is
    errors: Floats  # standard errors of the differences, pseudo-item included
    critical: float  # half-width of a simultaneous interval in standard errors
    wins: Ints | None
    p: Floats | None
    p_holm: Floats | None
    deviations: Floats  # (replicates, slices): resampled scores minus the score
    sign: int = 1  # -1 where a smaller score is better

    def compare(self, a: str, b: str) -> Comparison:
        """Raises KeyError for a slice that this panel does not have."""
        i, j = self.index(a), self.index(b)
        d, h = float(self.differences[i, j]), float(self.errors[i, j]) * self.critical
        if self.wins is None or self.p is None or self.p_holm is None:
            return Comparison(a, b, d, d - h, d + h)
        wins, losses = int(self.wins[i, j]), int(self.wins[j, i])
        p, p_holm = float(self.p[i, j]), float(self.p_holm[i, j])
        return Comparison(a, b, d, d - h, d + h, wins, losses, p, p_holm)

    def index(self, name: str) -> int:
        if name not in self.slices:
            raise KeyError(name)
        return self.slices.index(name)


@dataclass(frozen=True)
class Ranking:
    """Where every slice of a panel stands, for one notion of size; in the order of its `slices`."""

    pareto: Bools  # by the measured scores
    membership: Floats  # share of the resamples in which the slice is on the Pareto set
    verdicts: tuple[Verdict, ...]
    dominated_by: tuple[str | None, ...]  # for "dominated": by whom, the clearest case


def rank(panel: Panel, sizes: Mapping[str, float]) -> Ranking:
    """Judge the slices of a panel by their sizes. A verdict is read off the simultaneous intervals:

    dominated: some slice that is no larger is better. On the frontier: better than every slice that
    is no larger (the smallest slice has no rival and is on it by definition). Else not separable.
    """
    at = np.array([sizes[name] for name in panel.slices], dtype=np.float64)
    half = panel.critical * panel.errors
    said: list[Verdict] = []
    by: list[str | None] = []
    for i in range(len(at)):
        rivals = np.flatnonzero((at <= at[i]) & (np.arange(len(at)) != i))
        behind = -panel.differences[i, rivals] - half[i, rivals]
        ahead = panel.differences[i, rivals] - half[i, rivals]
        dominated = bool((behind > 0).any())
        by.append(panel.slices[rivals[np.argmax(behind)]] if dominated else None)
        if dominated:
            said.append("dominated")
        else:
            said.append("on the frontier" if (ahead > 0).all() else "not separable")
    scores = panel.sign * panel.values
    # rounded, so that slices which answer alike tie in every resample
    resampled = pareto(at, np.round(scores + panel.sign * panel.deviations, 12))
    return Ranking(pareto(at, scores), resampled.mean(axis=0), tuple(said), tuple(by))


@dataclass(frozen=True)
class Study:
    """All panels of a sweep, compared as one family."""

    panels: Mapping[str, Panel]
    critical: float  # the same for all panels
    comparisons: int  # how many differences the family has
    tests: int  # how many McNemar tests Holm's correction counts
    level: float
    replicates: int
    seed: int


def study(
    tasks: Mapping[str, Outcomes],
    *,
    between: Sequence[tuple[str, str]] | None = None,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Study:
    """Compare all slices on every task and, where there are several tasks, on their average.

    The average is the plain mean of the tasks' scores, over the slices that have all of them; its
    resamples are the tasks' own. `between` restricts the family to these pairs of slices (only they
    may then be asked for), which makes the intervals narrower; without it the family is every pair.
    """
    rng = np.random.default_rng(seed)
    drafts = {name: _Draft.of(outcomes, replicates, rng) for name, outcomes in tasks.items()}
    if len(drafts) > 1:
        everyone = [
            name
            for name in next(iter(tasks.values())).slices
            if all(name in outcomes.slices for outcomes in tasks.values())
        ]
        if everyone:
            drafts[AVERAGE] = _Draft.average(list(drafts.values()), tuple(everyone))

    pairs: dict[str, tuple[Ints, Ints]] = {}
    for name, draft in drafts.items():
        at = {slice_: k for k, slice_ in enumerate(draft.slices)}
        wanted = between if between is not None else combinations(draft.slices, 2)
        chosen = [(at[a], at[b]) for a, b in wanted if a in at and b in at]
        left, right = np.array(chosen, dtype=np.int64).reshape(-1, 2).T
        pairs[name] = left, right
    critical = critical_value(
        [(d.deviations, d.resampling_errors, *pairs[name]) for name, d in drafts.items()],
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


def unpaired(
    name: str,
    slices: Sequence[str],
    values: Sequence[float],
    stderrs: Sequence[float],
    n: int,
    *,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> Panel:
    """A panel for a metric without per-item outcomes (a perplexity, say), from standard errors
    alone.

    Differences are taken as if the slices had seen different items, which is wider than paired ones
    would be, and their simultaneous width is Bonferroni's. A missing standard error is NaN and
    separates nothing.
    """
    value, se = np.asarray(values, dtype=np.float64), np.asarray(stderrs, dtype=np.float64)
    sign = 1 if higher_is_better else -1
    pairs = max(1, len(value) * (len(value) - 1) // 2)
    z = normal_quantile(0.5 + level / 2)
    return Panel(
        name=name,
        slices=tuple(slices),
        n=n,
        values=value,
        stderrs=se,
        intervals=np.stack([value - z * se, value + z * se], axis=1),
        differences=sign * (value[:, None] - value[None, :]),
        errors=np.sqrt(se[:, None] ** 2 + se[None, :] ** 2),
        critical=normal_quantile(1 - (1 - level) / (2 * pairs)),
        wins=None,
        p=None,
        p_holm=None,
        deviations=np.zeros((1, len(value))),
        sign=sign,
    )


# --- planning ---


@dataclass(frozen=True)
class ItemsNeeded:
    """How many items would separate two slices, if the true difference is the measured one."""

    have: int
    need: int | None  # None: the measured difference is 0, no number of items would do
    detectable: float  # smallest difference that the items at hand would separate, as a fraction


def items_needed(
    panel: Panel, a: str, b: str, *, critical: float | None = None, power: float = 0.8
) -> ItemsNeeded:
    """Items of the same kind and mix needed to tell `a` from `b` with probability `power`.

    Connor (1987) for paired proportions, in terms of the variance per item s2 = n se**2 of the
    difference d: n = (critical sqrt(s2 + d**2) + z_power sqrt(s2))**2 / d**2. `critical` is the
    sweep's simultaneous one unless given (1.96 for a single comparison planned beforehand). For the
    average, n counts all tasks' items, kept in proportion. Raises KeyError for a slice that the
    panel does not have.
    """
    i, j = panel.index(a), panel.index(b)
    difference = float(panel.differences[i, j])
    variance = panel.n * float(panel.errors[i, j]) ** 2
    critical = panel.critical if critical is None else critical
    z = normal_quantile(power)
    detectable = (critical + z) * math.sqrt(variance / panel.n)
    if difference == 0:
        return ItemsNeeded(panel.n, None, detectable)
    root = critical * math.sqrt(variance + difference**2) + z * math.sqrt(variance)
    return ItemsNeeded(panel.n, math.ceil((root / difference) ** 2), detectable)


# --- inside ---


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
        rows = [np.array([draft.slices.index(name) for name in slices]) for draft in drafts]
        chosen = list(zip(drafts, rows, strict=True))
        squares = [d.resampling_errors[np.ix_(r, r)] ** 2 for d, r in chosen]
        return cls(
            slices=slices,
            n=sum(d.n for d in drafts),
            values=np.mean([d.values[r] for d, r in chosen], axis=0),
            covariance=np.sum([d.covariance[np.ix_(r, r)] for d, r in chosen], axis=0) / count**2,
            pseudo=sum(d.pseudo for d in drafts) / count**2,
            resampling_errors=np.sqrt(np.sum(squares, axis=0)) / count,
            deviations=np.mean([d.deviations[:, r] for d, r in chosen], axis=0),
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


def _symmetric(values: Floats, pairs: tuple[Ints, ...], size: int) -> Floats:
    left, right = pairs
    full: Floats = np.full((size, size), np.nan)
    np.fill_diagonal(full, 1.0)
    full[left, right] = full[right, left] = values
    return full
