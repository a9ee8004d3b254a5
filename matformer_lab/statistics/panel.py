"""One task of a sweep, or the average of all, with everything that was concluded about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matformer_lab.statistics.outcomes import Floats, Ints
from matformer_lab.statistics.paired import (
    LEVEL,
    normal_quantile,
)


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
