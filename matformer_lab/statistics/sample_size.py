"""How many items it takes to tell two slices apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matformer_lab.statistics.paired import normal_quantile
from matformer_lab.statistics.panel import Panel


@dataclass(frozen=True)
class ItemsNeeded:
    """How many items would separate two slices, if the true difference is the measured one.

    Attributes:
        have: Items at hand.
        need: Items needed; None where the measured difference is 0 and no number would do.
        detectable: The smallest difference that the items at hand would separate, as a fraction.
    """

    have: int
    need: int | None
    detectable: float


def items_needed(
    panel: Panel, a: str, b: str, *, critical: float | None = None, power: float = 0.8
) -> ItemsNeeded:
    """The number of items needed to tell `a` from `b` with probability `power`.

    Connor (1987) for paired proportions, in terms of the variance per item s2 = n se**2 of the
    difference d: n = (critical sqrt(s2 + d**2) + z_power sqrt(s2))**2 / d**2. The items are taken
    to be of the same kind and mix as the panel's; for the average, n counts all tasks' items, kept
    in proportion.

    Args:
        panel: Where the two slices were compared.
        a: A slice of the panel.
        b: Another one.
        critical: Half-width of an interval in standard errors; None: the sweep's simultaneous one.
            A single comparison that was planned beforehand has 1.96.
        power: The probability, between 0 and 1.

    Raises:
        KeyError: When the panel does not have one of the slices.
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
