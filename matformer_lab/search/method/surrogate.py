"""A model of the objective from the slices measured so far: shares of layers, and pairs of layers.

A loss multiplies rather than adds: what a narrow layer costs, it costs of what the others left. And
most of a loss is there in the whole parent too, whatever is narrowed. So the model adds up in the
logarithm of a slice's excess over a floor, which lies as far below the smallest loss as that lies
below the median; the order of slices by a sum does not depend on the scale.

What adds up is, for each layer, a share of its choice, and for each pair of layers a product of how
narrow both are: two layers that do the same work are missed most when both are narrow. All of it is
shrunk the more, the less was measured, so that what was not measured is not taken for free. This is
kernel ridge regression, or the mean of a Gaussian process, with the kernel

    constant + widths on average + own choices + narrowness + (narrowness, in pairs of layers),

whose strengths are those with the smallest leave-one-out error (Rasmussen & Williams 2006, 2.2 and
5.4.2). As each part is a product of features, shares and pairs can be read from the solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Final

import numpy as np

from matformer_lab.search.method.solve import Values
from matformer_lab.search.method.space import Pattern, Space
from matformer_lab.statistics.outcomes import Floats

_CONSTANT: Final = 100.0
_AVERAGES: Final = 10.0
"""The strengths of the constant and of the widths' averages: next to no shrinking."""
_OWN: Final = (0.003, 0.03)
_NARROW: Final = (0.03, 0.3)
_PAIRS: Final = (0.0, 0.001, 0.003, 0.01, 0.03)
_NOISE: Final = (3e-4, 3e-3, 3e-2)
"""Strengths to choose from: variances, of logarithms."""


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted model.

    Attributes:
        space: What may be chosen.
        floor: Of the loss.
        intercept: What the logarithm is for the widest slice (with its sign turned: larger is
            better).
        shares: By layer and width, what each choice adds to that.
        pairs: [layers, layers] Half of what each pair of layers adds, times the narrowness of both;
            symmetric, 0 on the diagonal.
        error: Root mean square of the leave-one-out errors, in the objective's scale.
        observations: How many slices it was fitted to.
    """

    space: Space
    floor: float
    intercept: float
    shares: Values
    pairs: Floats
    error: float
    observations: int

    @property
    def link(self) -> str:
        """What it adds up, for the record: with pairs, or shares alone."""
        return "log excess, pairs" if self.pairs.any() else "log excess"

    @cached_property
    def narrowness(self) -> tuple[Mapping[int, float], ...]:
        """By layer and width, from 0 (widest) to 1."""
        return narrowness(self.space)

    def narrow(self, pattern: Pattern) -> Floats:
        """[layers] How narrow each layer of a slice is."""
        return np.array([each[width] for each, width in zip(self.narrowness, pattern, strict=True)])

    def predict(self, pattern: Pattern) -> float:
        """The objective of a slice."""
        narrow = self.narrow(pattern)
        total = self.intercept + float(narrow @ self.pairs @ narrow)
        total += sum(each[width] for each, width in zip(self.shares, pattern, strict=True))
        return float(_unlinked(np.asarray(total), self.floor))

    def around(self, pattern: Pattern) -> Values:
        """What each choice adds while all other layers are as in a slice: shares that add up."""
        felt = 2 * self.pairs @ self.narrow(pattern)
        return tuple(
            {width: share + felt[layer] * self.narrowness[layer][width]
             for width, share in shares.items()}
            for layer, shares in enumerate(self.shares)
        )  # fmt: skip


def fit(space: Space, measured: Mapping[Pattern, float]) -> Surrogate:
    """Fit the model.

    Args:
        space: What may be chosen.
        measured: The objective of slices: at least one.
    """
    patterns = list(measured)
    y = np.array([measured[pattern] for pattern in patterns])
    floor = _floor(y)
    target = _linked(y, floor)
    mean = float(target.mean())
    columns = _Columns(space)
    features = columns.of(patterns)
    narrow = features[2]
    products = [each @ each.T for each in features]
    pairs = products[2] ** 2 - (narrow**2) @ (narrow**2).T
    best: tuple[float, tuple[float, float, float], Floats] | None = None
    for own, width, pair, noise in product(_OWN, _NARROW, _PAIRS, _NOISE):
        kernel = _CONSTANT + _AVERAGES * products[0] + own * products[1] + width * products[2]
        kernel = kernel + pair * pairs
        kernel[np.diag_indices(len(y))] += noise
        inverse = np.linalg.inv(kernel)
        solution = inverse @ (target - mean)
        left_out = target - solution / np.diag(inverse)  # in closed form
        error = float(np.sqrt(np.mean((y - _unlinked(left_out, floor)) ** 2)))
        if best is None or error < best[0]:
            best = error, (own, width, pair), solution
    assert best is not None
    error, (own, width, pair), solution = best
    weights = [
        strength * each.T @ solution
        for strength, each in zip((_AVERAGES, own, width), features, strict=True)
    ]
    together = pair * (narrow.T * solution) @ narrow
    np.fill_diagonal(together, 0.0)
    return Surrogate(
        space=space,
        floor=floor,
        intercept=mean + _CONSTANT * float(solution.sum()),
        shares=columns.shares(weights),
        pairs=together,
        error=error,
        observations=len(patterns),
    )


def narrowness(space: Space) -> tuple[Mapping[int, float], ...]:
    """By layer and width, from 0 (widest) to 1 (narrowest): even steps. A skip counts as 1."""
    found = []
    for choices in space.choices:
        widths = [width for width in reversed(choices) if width]
        steps = max(1, len(widths) - 1)
        found.append({width: rank / steps for rank, width in enumerate(widths)} | {0: 1.0})
    return tuple(found)


class _Columns:
    """The features of slices: widths on average, own choices, and narrowness."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._narrowness = narrowness(space)
        # Widths are alike in all layers by their rank from above; a skip is a kind of its own.
        kinds: dict[int, int] = {}
        self._kind: dict[tuple[int, int], int] = {}
        self._own: dict[tuple[int, int], int] = {}
        for layer, choices in enumerate(space.choices):
            for rank, width in enumerate(reversed(choices)):
                if rank:  # the widest is what the others are compared with
                    kind = kinds.setdefault(rank if width else -1, len(kinds))
                    self._kind[layer, width] = kind
                    self._own[layer, width] = len(self._own)
        self._kinds = len(kinds)

    def of(self, patterns: list[Pattern]) -> tuple[Floats, Floats, Floats]:
        """Each [slices, columns]."""
        layers = len(self._space.choices)
        averages = np.zeros((len(patterns), self._kinds))
        own = np.zeros((len(patterns), len(self._own)))
        narrow = np.zeros((len(patterns), layers))
        for row, pattern in enumerate(patterns):
            for layer, width in enumerate(pattern):
                narrow[row, layer] = self._narrowness[layer][width]
                if (layer, width) in self._own:
                    averages[row, self._kind[layer, width]] += 1 / layers
                    own[row, self._own[layer, width]] = 1.0
        return averages, own, narrow

    def shares(self, weights: list[Floats]) -> Values:
        """What each choice adds by the weights of the columns."""
        averages, own, narrow = weights
        layers = len(self._space.choices)
        return tuple(
            {
                width: float(
                    averages[self._kind[layer, width]] / layers
                    + own[self._own[layer, width]]
                    + narrow[layer] * self._narrowness[layer][width]
                )
                if (layer, width) in self._own
                else 0.0
                for width in choices
            }
            for layer, choices in enumerate(self._space.choices)
        )


def _floor(y: Floats) -> float:
    """As far below the smallest loss as that is below the median.

    Much nearer, and the logarithm of what is near the floor would be mere noise.
    """
    smallest = float(-y.max())
    return smallest - ((float(np.median(-y)) - smallest) or 1.0)


def _linked(y: Floats, floor: float) -> Floats:
    return -np.log(-y - floor)


def _unlinked(z: Floats, floor: float) -> Floats:
    return np.asarray(-np.exp(-z) - floor)
