"""Proposals: within the budget, new, apart, near where they start, and as good as exchanges go."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.budget import Budget, make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.propose import best_by, climb, propose
from matformer_lab.search.method.scan import first_design, first_scan
from matformer_lab.search.method.space import Pattern, Space, distance, make_space
from matformer_lab.search.method.surrogate import Surrogate
from matformer_lab.slicing.notation.width import Width
from matformer_lab.sweep.search_block import BudgetEntry

WIDTHS = [Width.parse(width) for width in ("1/4", "1/2", "full")]


@pytest.fixture(scope="module")
def parent(pico: Path) -> Parent:
    return open_parent(pico)


@pytest.fixture(scope="module")
def space(parent: Parent) -> Space:
    return make_space(parent.text, WIDTHS, "none")


def half_way(parent: Parent, space: Space) -> Budget:
    table = CostTable(parent, space)
    sizes = table.costs("max_params")
    most = (sizes.of(space.at(0)) + sizes.of(space.full)) // 2
    (budget,) = make_budgets([BudgetEntry(max_params=most)], table)
    return budget


def drawn(space: Space, seed: int, strength: float = 0.2) -> Surrogate:
    """A surrogate with random shares and pairs."""
    rng = np.random.default_rng(seed)
    layers = len(space.choices)
    pairs = np.triu(rng.normal(size=(layers, layers)) * strength, 1)
    shares = tuple(
        {width: float(rng.normal() + np.log(width + 1)) for width in each} for each in space.choices
    )
    return Surrogate(space, 0.0, 0.0, shares, pairs + pairs.T, 0.0, 0)


def worth(model: Surrogate, pattern: Pattern) -> float:
    """Independent of `predict`: share by share, pair by pair."""
    narrow = [model.narrowness[k][width] for k, width in enumerate(pattern)]
    total = sum(model.shares[k][width] for k, width in enumerate(pattern))
    for a in range(len(pattern)):
        for b in range(a):
            total += 2 * model.pairs[a, b] * narrow[a] * narrow[b]
    return float(total)


@pytest.mark.parametrize("seed", range(5))
def test_no_exchange_of_two_layers_is_better(parent: Parent, space: Space, seed: int) -> None:
    budget, model = half_way(parent, space), drawn(space, seed)
    found = best_by(space, [budget], model, [space.at(1)])
    assert found is not None
    best = climb(budget, model, found[0], lambda _: True)
    assert budget.holds(best)
    assert worth(model, best) >= worth(model, found[0]) - 1e-9
    for a, b in product(range(10), repeat=2):
        for wide, narrow in product((16, 32, 64), repeat=2):
            other = list(best)
            other[a], other[b] = wide, narrow
            if budget.holds(tuple(other)):
                assert worth(model, tuple(other)) <= worth(model, best) + 1e-6


def test_proposals_are_new_apart_and_near(parent: Parent, space: Space) -> None:
    budget, model = half_way(parent, space), drawn(space, 0)
    start = climb(budget, model, space.at(0), lambda pattern: len(set(pattern)) < 3)
    known = {start}
    for _ in range(3):
        fresh = propose(
            space, [budget], model, [(start,)], count=4, apart=2, reach=4, known=known
        )  # fmt: skip
        patterns = [pattern for (pattern,) in fresh]
        assert len(patterns) == 4 and not known & set(patterns)
        for number, pattern in enumerate(patterns):
            assert budget.holds(pattern)
            assert distance(pattern, start) <= 4
            assert all(distance(pattern, other) >= 2 for other in patterns[:number])
        known |= set(patterns)


def test_a_start_outside_the_budget_does_not_bind(parent: Parent, space: Space) -> None:
    budget, model = half_way(parent, space), drawn(space, 0)
    fresh = propose(
        space, [budget], model, [(space.full,)], count=2, apart=2, reach=2, known=()
    )  # fmt: skip
    assert len(fresh) == 2 and all(budget.holds(pattern) for (pattern,) in fresh)


def test_skipped_layers_stay_skipped_while_widths_are_exchanged(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "any")
    budget, model = half_way(parent, space), drawn(space, 1)
    skipped = next(layer for layer, each in enumerate(space.choices) if 0 in each)
    start = tuple(0 if layer == skipped else 16 for layer in range(10))
    best = climb(budget, model, start, lambda _: True)
    assert [layer for layer, width in enumerate(best) if not width] == [skipped]
    assert budget.holds(best) and space.valid(best)


def test_one_width_for_all_layers_has_few_proposals(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "none", uniform=True)
    budget, model = half_way(parent, space), drawn(space, 1)
    fresh = propose(
        space, [budget], model, [(space.at(0),)], count=5, apart=2, reach=2, known={space.at(0)}
    )  # fmt: skip
    assert fresh == [(space.at(1),)] or fresh == []


def test_a_uniform_scan_with_skips_leaves_evaluations_for_rounds_and_race(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "any", uniform=True)
    whole = first_scan(space, 1000)
    assert first_design(space, [half_way(parent, space)], 2 * len(whole), 1) == whole
    assert len(first_design(space, [half_way(parent, space)], len(whole), 1)) == len(whole) // 2
