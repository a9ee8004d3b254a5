"""Statistics of slices that answered the same items, one task at a time.

Pure functions on arrays. Everything is paired: an item that every slice gets right says nothing
about their order and cancels out. `statistics.study` puts these pieces together for a whole sweep;
methods and their sources are in `docs/statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from matformer_lab.statistics.outcomes import Floats, Ints, Outcomes

LEVEL = 0.95
"""Confidence of every interval."""

_CHUNK = 2_000_000  # array elements held at once while resampling: bounds memory, not the result


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class PairIndices(NamedTuple):
    """Pairs of slices by index: left[k] is compared with right[k]."""

    left: Ints
    right: Ints


class Resampled(NamedTuple):
    """What `critical_value` needs to know of one panel.

    Attributes:
        deviations: [replicates, slices]; resampled scores minus the score.
        errors: [slices, slices]; standard errors of the differences in the bootstrap.
        left: [pairs]; the differences of the family are left[k] - right[k].
        right: [pairs].
    """

    deviations: Floats
    errors: Floats
    left: Ints
    right: Ints


def covariance(outcomes: Outcomes, *, ddof: int = 1) -> Floats:
    """Covariance of the slices' scores under stratified sampling of items, [slices, slices].

    Args:
        outcomes: Of one task.
        ddof: 1 gives the unbiased estimate; 0 exactly the variance of the stratified bootstrap.
    """
    total: Floats = np.zeros((len(outcomes.slices),) * 2)
    for stratum in range(int(outcomes.strata.max()) + 1):
        here = outcomes.strata == stratum
        n = int(here.sum())
        if n <= ddof:
            continue
        x = outcomes.scores[:, here]
        x = (x - x.mean(axis=1, keepdims=True)) * outcomes.weights[here][0]
        total += x @ x.T * (n / (n - ddof))
    return total


def wilson(value: float, stderr: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's interval for a score in [0, 1], at its effective sample size.

    n_eff = value (1 - value) / stderr**2 (n where that is 0/0). For a plain accuracy this is
    Wilson's interval itself; for a stratified or averaged score it keeps the interval inside [0, 1]
    and open at 0 and 1 (Franco et al. 2019). A value outside [0, 1] is not a proportion and gets
    value +- z * stderr.

    Args:
        value: The score, as a fraction.
        stderr: Its standard error.
        n: The number of items.
        level: The confidence of the interval.
    """
    z = normal_quantile(0.5 + level / 2)
    if not 0.0 <= value <= 1.0:
        return Interval(value - z * stderr, value + z * stderr)
    spread = value * (1.0 - value)
    size = spread / stderr**2 if stderr > 0 and spread > 0 else float(n)
    centre = (value + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(spread / size + z * z / (4 * size * size))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(outcomes: Outcomes, replicates: int, rng: np.random.Generator) -> Floats:
    """Resampled scores minus the score, [replicates, slices].

    Items are drawn with replacement within each stratum, the same items for every slice.
    """
    total: Floats = np.zeros((replicates, len(outcomes.slices)))
    for stratum in range(int(outcomes.strata.max()) + 1):
        here = outcomes.strata == stratum
        n = int(here.sum())
        weighted = np.ascontiguousarray((outcomes.scores[:, here] * outcomes.weights[here]).T)
        step = max(1, _CHUNK // n)
        for start in range(0, replicates, step):
            some = min(step, replicates - start)
            drawn = rng.integers(n, size=(some, n)) + np.arange(some)[:, None] * n
            counts = np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n)
            total[start : start + some] += counts @ weighted
    return total - outcomes.values


def difference_errors(cov: Floats) -> Floats:
    """Standard errors of all differences of scores, [slices, slices], from their covariance."""
    own = np.diag(cov)
    variance = own[:, None] + own[None, :] - 2 * cov
    tiny = 1e-12 * (own[:, None] + own[None, :])  # equal outcomes: rounding, not variance
    errors: Floats = np.sqrt(np.where(variance > tiny, variance, 0.0))
    return errors


def critical_value(parts: Sequence[Resampled], *, level: float = LEVEL) -> float:
    """Half-width, in standard errors, at which all intervals hold together.

    The `level` quantile of the largest |t| over all differences (single-step max-T: Westfall &
    Young 1993; Hothorn, Bretz & Westfall 2008), and at least the normal quantile of a single
    comparison.

    Args:
        parts: The differences of the family, one part for each panel.
        level: The probability with which all intervals hold.
    """
    floor = normal_quantile(0.5 + level / 2)
    largest: Floats | None = None
    for deviations, errors, left, right in parts:
        varies = np.flatnonzero(errors[left, right] > 0)
        step = max(1, _CHUNK // len(deviations))
        for start in range(0, len(varies), step):
            some = varies[start : start + step]
            a, b = left[some], right[some]
            top = (np.abs(deviations[:, a] - deviations[:, b]) / errors[a, b]).max(axis=1)
            largest = top if largest is None else np.maximum(largest, top)
    if largest is None:
        return floor
    return max(floor, float(np.quantile(largest, level, method="higher")))


def pseudo_variance(outcomes: Outcomes) -> float:
    """Variance of one made-up discordant item, added to every difference.

    After Agresti & Min (2005): two slices that agree on all n items are not known to be equal, and
    a handful of discordant items understates its own spread.
    """
    # Right and wrong are 1 apart even where every slice gets everything right.
    spread = 1.0 if outcomes.binary else float(outcomes.scores.max() - outcomes.scores.min())
    return (spread / outcomes.n) ** 2


def discordant(outcomes: Outcomes) -> Ints:
    """The items that slice i gets right and slice j wrong, [i, j], for 0/1 outcomes."""
    wins: Ints = np.rint(outcomes.scores @ (1.0 - outcomes.scores).T).astype(np.int64)
    return wins


def mcnemar(wins: Ints, losses: Ints) -> Floats:
    """Two-sided exact (binomial) McNemar p-values, in the shape of `wins` (McNemar 1947).

    The hypothesis is that `wins` and `losses` are the two sides of a fair coin.
    """
    from scipy.stats import binom

    wins, losses = np.asarray(wins), np.asarray(losses)
    p: Floats = np.minimum(1.0, 2.0 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
    return p


def holm(p: Floats) -> Floats:
    """Holm's step-down adjusted p-values (Holm 1979): valid under any dependence."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def normal_quantile(probability: float) -> float:
    """The z that a standard normal variable stays below with this probability."""
    return NormalDist().inv_cdf(probability)
