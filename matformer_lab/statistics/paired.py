"""Statistics of slices that answered the same items, one task at a time.

Pure functions on arrays. Everything is paired: an item that every slice gets right says nothing
about their order and cancels out. `frontier` puts these pieces together for a whole sweep; methods
and their sources are in `docs/statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from matformer_lab.statistics.outcomes import Floats, Ints, Outcomes

LEVEL = 0.95
_CHUNK = 2_000_000  # array elements held at once while resampling: bounds memory, not the result


# --- one score ---


def covariance(outcomes: Outcomes, *, ddof: int = 1) -> Floats:
    """Covariance of the slices' scores under stratified sampling of items, (slices, slices).

    ddof=1 is the unbiased estimate; ddof=0 is exactly the variance of the stratified bootstrap.
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


def wilson(value: float, stderr: float, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval for a score in [0, 1], at the sample size its standard error is worth.

    n_eff = value (1 - value) / stderr**2 (n where that is 0/0): for a plain accuracy this is
    Wilson's interval itself; for a stratified or averaged score it keeps the interval inside [0, 1]
    and open at 0 and 1 (Franco et al. 2019). Values outside [0, 1] are no proportions and get value
    +- z * stderr.
    """
    z = normal_quantile(0.5 + level / 2)
    if not 0.0 <= value <= 1.0:
        return value - z * stderr, value + z * stderr
    spread = value * (1.0 - value)
    size = spread / stderr**2 if stderr > 0 and spread > 0 else float(n)
    centre = (value + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(spread / size + z * z / (4 * size * size))
    return max(0.0, centre - half), min(1.0, centre + half)


# --- differences ---


def bootstrap(outcomes: Outcomes, replicates: int, rng: np.random.Generator) -> Floats:
    """Resampled scores minus the score, (replicates, slices): items drawn with replacement inside
    each stratum, the same items for every slice.
    """
    total: Floats = np.zeros((replicates, len(outcomes.slices)))
    for stratum in range(int(outcomes.strata.max()) + 1):
        here = outcomes.strata == stratum
        n = int(here.sum())
        weighted = np.ascontiguousarray((outcomes.scores[:, here] * outcomes.weights[here]).T)
        step = max(1, _CHUNK // n)
        for start in range(0, replicates, step):
            rows = min(step, replicates - start)
            drawn = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
            counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            total[start : start + rows] += counts @ weighted
    return total - outcomes.values


def difference_errors(cov: Floats) -> Floats:
    """Standard errors of all differences of scores, (slices, slices), from their covariance."""
    own = np.diag(cov)
    variance = own[:, None] + own[None, :] - 2 * cov
    tiny = 1e-12 * (own[:, None] + own[None, :])  # equal rows: rounding, not variance
    errors: Floats = np.sqrt(np.where(variance > tiny, variance, 0.0))
    return errors


def critical_value(
    parts: Sequence[tuple[Floats, Floats, Ints, Ints]], *, level: float = LEVEL
) -> float:
    """Half-width, in standard errors, that makes all intervals hold at once with probability
    `level`.

    Each part is (deviations (replicates, slices), bootstrap standard errors (slices, slices), left,
    right): the differences left[k] - right[k] of one panel. The value is the `level` quantile of
    the largest |t| over all of them (single-step max-T: Westfall & Young 1993; Hothorn, Bretz &
    Westfall 2008), at least the normal quantile of one comparison.
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
    """Variance of one made-up discordant item, added to every difference (after Agresti & Min
    2005): two slices that agree on all n items are not known to be equal, and a handful of
    discordant items understates its own spread.
    """
    # Right and wrong are 1 apart even where every slice gets everything right.
    spread = 1.0 if outcomes.binary else float(outcomes.scores.max() - outcomes.scores.min())
    return (spread / outcomes.n) ** 2


def discordant(outcomes: Outcomes) -> Ints:
    """wins[i, j] = items that slice i gets right and slice j wrong (0/1 outcomes)."""
    wins: Ints = np.rint(outcomes.scores @ (1.0 - outcomes.scores).T).astype(np.int64)
    return wins


def mcnemar(wins: Ints, losses: Ints) -> Floats:
    """Two-sided exact McNemar p-value: are `wins` and `losses` a fair coin's? (McNemar 1947; exact:
    binomial.)
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
    """z such that a standard normal variable is below it with this probability."""
    return NormalDist().inv_cdf(probability)
