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
