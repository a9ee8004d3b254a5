"""The Pareto set of sizes and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matformer_lab.statistics.outcomes import Floats

Bools = NDArray[np.bool_]


def pareto(sizes: Sequence[float] | Floats, scores: Sequence[float] | Floats) -> Bools:
    """True for each slice on the Pareto set, in the shape of `scores`.

    A slice is on the set unless another one is no larger and at least as good, and smaller or
    better.

    Args:
        sizes: [slices].
        scores: [..., slices]; larger is better.
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
