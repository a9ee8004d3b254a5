"""Where every slice of a panel stands: on the frontier, dominated, or not separable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from matformer_lab.statistics.outcomes import Floats
from matformer_lab.statistics.panel import Panel
from matformer_lab.statistics.pareto import Bools, pareto

Verdict = Literal["on the frontier", "not separable", "dominated"]


@dataclass(frozen=True)
class Ranking:
    """Where every slice of a panel stands, for one notion of size.

    Attributes:
        pareto: [slices]; whether the slice is on the Pareto set of the measured scores.
        membership: [slices]; the share of resamples in which it is on the Pareto set.
        verdicts: One for each slice.
        dominated_by: For a dominated slice, the one that beats it most clearly; else None.
    """

    pareto: Bools
    membership: Floats
    verdicts: tuple[Verdict, ...]
    dominated_by: tuple[str | None, ...]


def rank(panel: Panel, sizes: Mapping[str, float]) -> Ranking:
    """Judge the slices of a panel by their sizes.

    Verdicts are read off the simultaneous intervals. Dominated: a slice of at most its size is
    better. On the frontier: better than every slice of at most its size (the smallest slice has no
    rival and is on the frontier by definition). Not separable: neither.

    Args:
        panel: The slices' scores.
        sizes: A size for each of the panel's slices, by name, in any unit.

    Returns:
        The verdicts, in the order of `panel.slices`.
    """
    at = np.array([sizes[name] for name in panel.slices], dtype=np.float64)
    half = panel.critical * panel.errors
    verdicts: list[Verdict] = []
    by: list[str | None] = []
    for i in range(len(at)):
        rivals = np.flatnonzero((at <= at[i]) & (np.arange(len(at)) != i))
        behind = -panel.differences[i, rivals] - half[i, rivals]
        ahead = panel.differences[i, rivals] - half[i, rivals]
        dominated = bool((behind > 0).any())
        by.append(panel.slices[rivals[np.argmax(behind)]] if dominated else None)
        if dominated:
            verdicts.append("dominated")
        else:
            verdicts.append("on the frontier" if (ahead > 0).all() else "not separable")
    scores = panel.sign * panel.values
    # Rounded, so that slices with equal answers tie in every resample.
    resampled = pareto(at, np.round(scores + panel.sign * panel.deviations, 12))
    return Ranking(pareto(at, scores), resampled.mean(axis=0), tuple(verdicts), tuple(by))
