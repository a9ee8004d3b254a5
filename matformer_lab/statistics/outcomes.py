"""What slices scored on the items of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What every slice scored on every item of one task.

    Attributes:
        slices: Names, in the order of the rows of `scores`.
        scores: [slices, items]; larger is better.
        strata: [items]; the number of each item's stratum (its subject), from 0.
        weights: [items]; sum to 1 and are equal within a stratum, so that `scores @ weights` is the
            task's score.
    """

    slices: tuple[str, ...]
    scores: Floats
    strata: Ints
    weights: Floats

    @property
    def n(self) -> int:
        """The number of items."""
        return len(self.weights)

    @property
    def binary(self) -> bool:
        """Whether every item is either right (1) or wrong (0)."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())

    @property
    def values(self) -> Floats:
        """The task's scores, [slices].

        Slices with equal outcomes get equal scores to the last bit, which `@` does not ensure.
        """
        values: Floats = (self.scores * self.weights).sum(axis=1)
        return values


def make_outcomes(
    slices: Sequence[str],
    scores: Floats,
    subjects: Sequence[str] | None = None,
    *,
    macro: bool = False,
) -> Outcomes:
    """Outcomes from plain scores.

    Subjects with a single item have no variance to estimate and are pooled into one stratum
    ("collapsed strata").

    Args:
        slices: Their names.
        scores: [slices, items]; larger is better.
        subjects: The subject of each item; None: all items are of one subject.
        macro: Weigh every subject the same (an item counts 1 / size of its subject) instead of
            every item.

    Raises:
        ValueError: When `scores` does not have that shape or has no items.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != len(slices) or scores.shape[1] == 0:
        raise ValueError(
            f"scores must be (slices, items), got {scores.shape} for {len(slices)} slices"
        )
    n = scores.shape[1]
    names = np.asarray(subjects if subjects is not None else [""] * n, dtype=object).astype(str)
    _, strata, sizes = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1.0 / (sizes[strata] * len(sizes)) if macro else np.full(n, 1.0 / n)
    strata = np.where(sizes[strata] == 1, len(sizes), strata)
    _, strata = np.unique(strata, return_inverse=True)
    return Outcomes(tuple(slices), scores, strata.astype(np.int64), weights)
