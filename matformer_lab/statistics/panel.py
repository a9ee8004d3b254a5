"""What was concluded about one task of a sweep, or about the average of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matformer_lab.statistics.outcomes import Floats, Ints
from matformer_lab.statistics.paired import LEVEL, normal_quantile


@dataclass(frozen=True)
class Comparison:
    """Slice `a` minus slice `b` on one panel.

    Attributes:
        a: A slice's name.
        b: Another slice's name.
        difference: A fraction; above 0 where `a` is better.
        low: Lower end of the simultaneous interval of the difference.
        high: Its upper end.
        wins: Items that only `a` gets right; None where outcomes are not 0/1.
        losses: Items that only `b` gets right; None likewise.
        p: Exact McNemar p-value; None likewise.
        p_holm: The same after Holm's correction; None likewise.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    wins: int | None = None
    losses: int | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def separable(self) -> bool:
        """Whether the interval is clear of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Panel:
    """Everything that was concluded about one task, or about the average of all.

    Attributes:
        name: The task's, or `study.AVERAGE`.
        slices: Names, in the order of the arrays.
        n: Items.
        values: [slices]; scores as fractions.
        stderrs: [slices].
        intervals: [slices, 2]; the interval of each score by itself.
        differences: [slices, slices]; (score i - score j) * sign, i.e. how much better i is.
        errors: [slices, slices]; standard errors of the differences, pseudo-item included.
        critical: Half-width of a simultaneous interval, in standard errors.
        wins: [slices, slices]; items that i gets right and j wrong. None where outcomes are not
            0/1, as `p` and `p_holm` are.
        p: [slices, slices]; exact McNemar p-values, NaN for pairs that were not compared.
        p_holm: The same after Holm's correction over the whole family.
        deviations: [replicates, slices]; resampled scores minus the score.
        sign: -1 where a smaller score is better, else 1.
    """

    name: str
    slices: tuple[str, ...]
    n: int
    values: Floats
    stderrs: Floats
    intervals: Floats
    differences: Floats
    errors: Floats
    critical: float
    wins: Ints | None
    p: Floats | None
    p_holm: Floats | None
    deviations: Floats
    sign: int = 1

    def compare(self, a: str, b: str) -> Comparison:
        """Slice `a` minus slice `b`.

        Raises:
            KeyError: When the panel does not have one of them.
        """
        i, j = self.index(a), self.index(b)
        d, h = float(self.differences[i, j]), float(self.errors[i, j]) * self.critical
        if self.wins is None or self.p is None or self.p_holm is None:
            return Comparison(a, b, d, d - h, d + h)
        wins, losses = int(self.wins[i, j]), int(self.wins[j, i])
        p, p_holm = float(self.p[i, j]), float(self.p_holm[i, j])
        return Comparison(a, b, d, d - h, d + h, wins, losses, p, p_holm)

    def index(self, name: str) -> int:
        """The position of a slice in the arrays.

        Raises:
            KeyError: When the panel does not have it.
        """
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
    """A panel for a metric without per-item outcomes (a perplexity, say).

    Differences are treated as if the slices had seen different items, which gives wider intervals
    than pairing would, and their simultaneous width is Bonferroni's.

    Args:
        name: The task's.
        slices: Their names.
        values: A score for each slice.
        stderrs: Their standard errors; NaN where one is missing, which separates nothing.
        n: Items.
        higher_is_better: Whether a larger score is better.
        level: The confidence of the intervals.
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
