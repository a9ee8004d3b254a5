"""A model of the objective from the slices measured so far: every layer's choice adds its share.

A loss multiplies rather than adds: what a narrow layer costs, it costs of what the others left. And
most of a loss is there in the whole parent too, whatever is narrowed. So the shares add up in the
objective itself, in the logarithm of the loss, or in that of its excess over most of the smallest
loss, whichever foretold held-out slices best; the order of slices by a sum does not depend on it.

A share is what its width costs in all layers on average, and the layer's own deviation from that,
shrunk the more, the less was measured (ridge regression; the penalty with the smallest
leave-one-out error). A choice that was never measured so has the average of its width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matformer_lab.search.method.solve import Values
from matformer_lab.search.method.space import Pattern, Space
from matformer_lab.statistics.outcomes import Floats

_PENALTIES: Final = tuple(10.0**power for power in np.arange(-4.0, 1.5, 0.5))
_LINKS: Final = ("log excess", "log loss", "objective")
_FLOOR: Final = 0.8
"""Of the smallest loss, what counts as there whatever is chosen. All of it would make the logarithm
of what is near it mere noise."""


@dataclass(frozen=True)
class Surrogate:
    """A fitted model.

    Attributes:
        space: What may be chosen.
        link: In which scale the shares add up: `log loss` (of -objective), `log excess` (of
            -objective - floor) or `objective`.
        floor: Of the loss.
        intercept: The prediction for the widest slice, in that scale (larger is better).
        shares: By layer and width, what each choice adds to that.
        error: Root mean square of the leave-one-out errors, in the objective's scale.
        observations: How many slices it was fitted to.
    """

    space: Space
    link: str
    floor: float
    intercept: float
    shares: Values
    error: float
    observations: int

    def predict(self, pattern: Pattern) -> float:
        """The objective of a slice."""
        total = self.intercept + sum(
            shares[width] for shares, width in zip(self.shares, pattern, strict=True)
        )
        return float(_unlinked(np.asarray(total), self.link, self.floor))


def fit(
    space: Space,
    measured: Mapping[Pattern, float],
    weights: Mapping[Pattern, float] | None = None,
) -> Surrogate:
    """Fit the model.

    Args:
        space: What may be chosen.
        measured: The objective of slices; all of it below 0 for the logarithms.
        weights: How much each slice counts; None: all the same. What is near the slices that are
            looked for should count most.
    """
    patterns = list(measured)
    y = np.array([measured[pattern] for pattern in patterns])
    w = np.array([1.0 if weights is None else weights[pattern] for pattern in patterns])
    columns = _Columns(space)
    x = np.stack([columns.row(pattern) for pattern in patterns])
    links = _LINKS if (y < 0).all() else _LINKS[-1:]
    floors = [_FLOOR * float(-y.max()) if link == "log excess" else 0.0 for link in links]
    targets = np.stack(
        [_linked(y, link, floor) for link, floor in zip(links, floors, strict=True)], axis=1
    )
    best: Surrogate | None = None
    for penalty in _PENALTIES:
        solutions, loo = _ridge(x, targets, w, columns.penalties(penalty))
        for n, (link, floor) in enumerate(zip(links, floors, strict=True)):
            errors = y - _unlinked(loo[:, n], link, floor)
            error = float(np.sqrt((w * errors**2).sum() / w.sum()))
            if best is None or error < best.error:
                shares = columns.shares(solutions[:, n])
                constant = float(solutions[0, n])
                best = Surrogate(space, link, floor, constant, shares, error, len(patterns))
    assert best is not None
    return best


def near(sizes: Sequence[int], target: int, reach: float) -> Floats:
    """[slices] How much slices of these sizes count for the slices of a target size.

    Args:
        sizes: Effective parameters.
        target: Likewise.
        reach: The distance, likewise, at which a slice counts 0.6.
    """
    far = (np.asarray(sizes, dtype=np.float64) - target) / reach
    weights: Floats = np.maximum(np.exp(-0.5 * far**2), 1e-3)
    return weights


class _Columns:
    """The columns of the regression: a constant, each width on average, each layer's deviation."""

    def __init__(self, space: Space) -> None:
        self._space = space
        # Widths are alike in all layers by their rank from above; a skip is a kind of its own.
        self._rank = [
            {width: ("skip" if not width else len(choices) - 1 - n)
             for n, width in enumerate(choices)}
            for choices in space.choices
        ]  # fmt: skip
        kinds = sorted({str(rank) for ranks in self._rank for rank in ranks.values()} - {"0"})
        self._kinds = {kind: 1 + n for n, kind in enumerate(kinds)}
        self._own: dict[tuple[int, int], int] = {}
        for layer, ranks in enumerate(self._rank):
            for width, rank in ranks.items():
                if str(rank) != "0":
                    self._own[layer, width] = 1 + len(kinds) + len(self._own)
        self.size = 1 + len(kinds) + len(self._own)

    def row(self, pattern: Pattern) -> Floats:
        row = np.zeros(self.size)
        row[0] = 1.0
        for layer, width in enumerate(pattern):
            if (layer, width) in self._own:
                row[self._kinds[str(self._rank[layer][width])]] += 1
                row[self._own[layer, width]] = 1.0
        return row

    def penalties(self, penalty: float) -> Floats:
        """[columns] Of the constant and the averages, next to nothing."""
        penalties = np.full(self.size, penalty)
        penalties[0] = 0.0
        penalties[1 : 1 + len(self._kinds)] = 1e-8
        return penalties

    def shares(self, solution: Floats) -> Values:
        return tuple(
            {
                width: float(
                    solution[self._kinds[str(rank)]] + solution[self._own[layer, width]]
                    if (layer, width) in self._own
                    else 0.0
                )
                for width, rank in ranks.items()
            }
            for layer, ranks in enumerate(self._rank)
        )


def _ridge(x: Floats, y: Floats, w: Floats, penalties: Floats) -> tuple[Floats, Floats]:
    """The solutions of a weighted ridge regression, and its leave-one-out predictions.

    The latter in closed form: y - residual / (1 - leverage).

    Args:
        x: [slices, columns].
        y: [slices, targets], each of which is solved for.
        w: [slices] weights.
        penalties: [columns].

    Returns:
        [columns, targets] and [slices, targets].
    """
    root = np.sqrt(w)[:, None]
    a = (x * root).T @ (x * root) + np.diag(penalties)
    inverse = np.linalg.pinv(a, hermitian=True)
    solutions = inverse @ (x.T @ (w[:, None] * y))
    leverage = ((x @ inverse) * x).sum(axis=1) * w
    loo = y - (y - x @ solutions) / np.maximum(1.0 - leverage, 1e-6)[:, None]
    return solutions, loo


def _linked(y: Floats, link: str, floor: float) -> Floats:
    return y if link == "objective" else -np.log(-y - floor)


def _unlinked(z: Floats, link: str, floor: float) -> Floats:
    return np.asarray(z) if link == "objective" else -np.exp(-np.asarray(z)) - floor
