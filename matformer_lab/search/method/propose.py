"""The best slices by the surrogate: an exact solution of its shares, then exchanges with its pairs.

Around a slice, the surrogate's pairs become shares too, and the program of `solve` finds the best
sum of shares exactly. From there, one or two layers at a time are changed while the whole
surrogate calls that better: mostly one narrower and another wider, which uses a budget up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.solve import Cut, solve
from matformer_lab.search.method.space import Pattern, Space, distance
from matformer_lab.search.method.surrogate import Surrogate

_TRIES: Final = 3
"""Solutions that lead to nothing new, after which there are no more proposals from a start."""
_LEAST: Final = 1e-9


def propose(
    space: Space,
    budgets: Sequence[Budget],
    model: Surrogate,
    starts: Sequence[tuple[Pattern, ...]],
    *,
    count: int,
    apart: int,
    reach: int,
    known: Collection[Pattern],
    nested: bool = False,
) -> list[tuple[Pattern, ...]]:
    """The best few by the surrogate, none of which is known.

    Args:
        space: What may be chosen.
        budgets: Each proposal has a slice for each of them.
        model: The surrogate.
        starts: Around which to look, by turns.
        count: How many there may be; there are fewer where nothing new is found.
        apart: In how many layers they differ at least from each other.
        reach: In how many layers they differ at most from where they start, if that is within the
            budgets: what is far from all that was measured is foretold badly, and the best of many
            bad predictions is the most mistaken one.
        known: Slices that are not proposed again. Of a nested family, some may be known.
        nested: Whether each slice lies within the next one.
    """
    fresh: list[tuple[Pattern, ...]] = []
    cuts: list[Cut] = []
    for number in range(count):
        start = starts[number % len(starts)]
        fits = all(budget.holds(each) for budget, each in zip(budgets, start, strict=True))
        near = Cut(start, reach * len(budgets)) if fits and not space.uniform else None
        for _ in range(_TRIES):
            exact = best_by(space, budgets, model, start, nested=nested, cuts=cuts, near=near)
            if exact is None:
                break
            found = exact
            if nested or space.uniform:
                is_new = any(pattern not in known for pattern in found)
            else:
                allowed = _Allowed(known, [other for (other,) in fresh], apart, near)
                found = (climb(budgets[0], model, exact[0], allowed),)
                is_new = allowed(found[0])
            if is_new:
                fresh.append(found)
                cuts.append(Cut(found, apart))
                break
            cuts.append(Cut(exact, 1))
    return fresh


@dataclass(frozen=True)
class _Allowed:
    """Whether a slice may be proposed beside others."""

    known: Collection[Pattern]
    others: Sequence[Pattern]
    apart: int
    near: Cut | None

    def __call__(self, pattern: Pattern) -> bool:
        if pattern in self.known:
            return False
        if self.near and distance(pattern, self.near.patterns[0]) > self.near.layers:
            return False
        return all(distance(pattern, other) >= self.apart for other in self.others)


def best_by(
    space: Space,
    budgets: Sequence[Budget],
    model: Surrogate,
    start: Sequence[Pattern],
    *,
    nested: bool = False,
    cuts: Sequence[Cut] = (),
    near: Cut | None = None,
) -> tuple[Pattern, ...] | None:
    """The best sums of the shares that the surrogate has around one slice for each budget."""
    values = [model.around(pattern) for pattern in start]
    return solve(space, budgets, values, nested=nested, cuts=cuts, near=near)


def climb(
    budget: Budget, model: Surrogate, pattern: Pattern, allowed: Callable[[Pattern], bool]
) -> Pattern:
    """Change one or two layers' widths as long as the surrogate calls that better.

    Args:
        budget: What to stay within.
        model: The surrogate.
        pattern: Where to begin. If it is not allowed, the best allowed change comes first, though
            it be for the worse. Skipped layers stay skipped.
        allowed: Where it may go.
    """
    choices = [
        (layer, width)
        for layer, widths in enumerate(model.space.choices)
        for width in widths
        if width and pattern[layer]
    ]
    layers = np.array([layer for layer, _ in choices])
    same = layers[:, None] == layers[None, :]
    twice = 2 * model.pairs[np.ix_(layers, layers)]
    while True:
        around = model.around(pattern)
        gains = np.array([around[k][width] - around[k][pattern[k]] for k, width in choices])
        steps = np.array(
            [model.narrowness[k][width] - model.narrowness[k][pattern[k]] for k, width in choices]
        )
        total = gains[:, None] + gains[None, :] + twice * steps[:, None] * steps[None, :]
        total[same] = -np.inf  # what a layer is already is a choice too: so one layer can change
        for limit in budget.limits:
            shares = limit.costs.shares
            costs = np.array([shares[k][width] - shares[k][pattern[k]] for k, width in choices])
            room = limit.most - limit.costs.of(pattern)
            total[costs[:, None] + costs[None, :] > room] = -np.inf
        is_allowed = allowed(pattern)
        better = next(
            (
                changed
                for changed in _changes(pattern, choices, total, _LEAST if is_allowed else -np.inf)
                if changed != pattern and allowed(changed)
            ),
            None,
        )
        if better is None:
            return pattern
        pattern = better


def _changes(
    pattern: Pattern, choices: Sequence[tuple[int, int]], total: np.ndarray, least: float
) -> list[Pattern]:
    """The patterns after the most promising changes, which gain more than the least."""
    flat = np.triu(total, 1)
    flat[np.tril_indices(len(choices))] = -np.inf
    order = np.argsort(-flat, axis=None, kind="stable")[:200]
    found = []
    for place in order:
        one, other = divmod(int(place), len(choices))
        if not flat[one, other] > least:
            break
        changed = list(pattern)
        for layer, width in (choices[one], choices[other]):
            changed[layer] = width
        found.append(tuple(changed))
    return found
