"""The surrogate: it finds the shares that made the numbers, and fills in what was not measured."""

import random
from pathlib import Path

import numpy as np
import pytest

from matformer_lab.parent.opening import open_parent
from matformer_lab.search.method.budget import make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.scan import first_design, first_scan, layer_forwards
from matformer_lab.search.method.space import Pattern, Space, make_space
from matformer_lab.search.method.surrogate import fit
from matformer_lab.search.run import rank_correlation
from matformer_lab.slicing.notation.width import Width
from matformer_lab.sweep.search_block import BudgetEntry


@pytest.fixture(scope="module")
def space(pico: Path) -> Space:
    widths = [Width.parse(width) for width in ("1/4", "1/2", "full")]
    return make_space(open_parent(pico).text, widths, "none")


def losses(space: Space, pattern: Pattern) -> float:
    """A loss that every narrow layer multiplies, late layers more than early ones."""
    factors = [1 + 0.02 * layer * (64 / width - 1) for layer, width in enumerate(pattern)]
    return -0.2 * float(np.prod(factors))


def mixed(space: Space, count: int, seed: int) -> list[Pattern]:
    rng = random.Random(seed)
    return [space.draw(rng) for _ in range(count)]


def test_it_foretells_slices_that_were_never_measured(space: Space) -> None:
    scan = (*first_scan(space, 1000), *mixed(space, 12, 1))
    model = fit(space, {pattern: losses(space, pattern) for pattern in scan})
    others = mixed(space, 50, 0)
    predicted = [model.predict(pattern) for pattern in others]
    true = [losses(space, pattern) for pattern in others]
    assert rank_correlation(predicted, true) == pytest.approx(1.0, abs=0.01)
    assert predicted == pytest.approx(true, rel=0.05)


def test_two_layers_that_matter_together_are_found(space: Space) -> None:
    """Layers 2 and 7 do the same work: either may be narrow, not both."""

    def together(pattern: Pattern) -> float:
        return losses(space, pattern) * (1 + 2 * (1 - pattern[2] / 64) * (1 - pattern[7] / 64))

    seen = [*first_scan(space, 1000), *mixed(space, 60, 1)]
    model = fit(space, {pattern: together(pattern) for pattern in seen})
    strongest = np.unravel_index(np.abs(model.pairs).argmax(), model.pairs.shape)
    assert {int(k) for k in strongest} == {2, 7}
    assert model.pairs[strongest] < 0
    assert (model.pairs == model.pairs.T).all() and not model.pairs.diagonal().any()


def test_around_a_slice_shares_say_what_the_whole_model_does(space: Space) -> None:
    seen = [*first_scan(space, 1000), *mixed(space, 30, 1)]
    model = fit(space, {pattern: losses(space, pattern) for pattern in seen})
    here = mixed(space, 1, 2)[0]
    values = model.around(here)
    ranked = list(space.neighbours(here))

    def gain(pattern: Pattern) -> float:
        return sum(
            each[new] - each[old] for each, new, old in zip(values, pattern, here, strict=True)
        )

    logs = [-np.log(-model.predict(each) - model.floor) for each in (here, *ranked)]
    assert [gain(each) for each in ranked] == pytest.approx([log - logs[0] for log in logs[1:]])


@pytest.mark.parametrize("shift", [0.8, -0.1, -5.0])
def test_what_all_slices_lose_changes_nothing_else(space: Space, shift: float) -> None:
    """Nor does an objective above 0 need a model of its own."""
    seen = first_scan(space, 1000)
    plain = fit(space, {pattern: losses(space, pattern) for pattern in seen})
    moved = fit(space, {pattern: losses(space, pattern) - shift for pattern in seen})
    assert moved.floor == pytest.approx(plain.floor + shift)
    for other in mixed(space, 10, 3):
        assert moved.predict(other) + shift == pytest.approx(plain.predict(other), rel=1e-4)


def test_equal_slices_are_foretold_as_equal(space: Space) -> None:
    model = fit(space, dict.fromkeys(first_scan(space, 1000), -1.5))
    assert model.predict(mixed(space, 1, 0)[0]) == pytest.approx(-1.5)


def test_a_choice_that_was_not_measured_counts_as_its_width_does(space: Space) -> None:
    scan = [
        pattern for pattern in first_scan(space, 1000) if pattern[9] == 64 or len({*pattern}) == 1
    ]
    model = fit(space, {pattern: losses(space, pattern) for pattern in scan})
    assert model.shares[9][16] < 0, "narrow is not free because nobody has tried it"


def test_a_scan_changes_one_layer_of_its_bases_and_keeps_to_its_limit(space: Space) -> None:
    scan = first_scan(space, 1000)
    middle, full = (32,) * 10, (64,) * 10
    assert {middle, full} <= set(scan)
    changed = [
        min(sum(a != b for a, b in zip(pattern, base, strict=True)) for base in (middle, full))
        for pattern in scan
        if len(set(pattern)) > 1
    ]
    assert set(changed) == {1}
    assert len(scan) == len(set(scan)) == 3 + 10 * 2 + 10
    few = first_scan(space, 15)
    assert len(few) <= 15 and {middle, full} <= set(few)
    assert layer_forwards(scan) < 0.75 * sum(map(len, scan))
    assert {changed_layer(pattern, middle) for pattern in first_scan(space, 30)} >= {*range(10)}


def changed_layer(pattern: Pattern, base: Pattern) -> int | None:
    """The only layer in which a slice differs from a base."""
    layers = [k for k, width in enumerate(pattern) if width != base[k]]
    return layers[0] if len(layers) == 1 else None


def test_a_scan_with_few_slices_tries_every_width(space: Space) -> None:
    middle = (32,) * 10
    few = [
        pattern for pattern in first_scan(space, 13) if changed_layer(pattern, middle) is not None
    ]
    assert {width for pattern in few for width in pattern} == {16, 32, 64}


def test_a_first_design_has_random_slices_of_the_budgets_sizes(pico: Path, space: Space) -> None:
    parent = open_parent(pico)
    table = CostTable(parent, space)
    least, most = table.costs("max_params").of((16,) * 10), table.costs("max_params").of((64,) * 10)
    budgets = make_budgets([BudgetEntry(max_params=(least * k + most * (3 - k)) // 3)
                            for k in (2, 1)], table)  # fmt: skip
    scan = set(first_scan(space, 1000))
    for evaluations, whole in ((120, True), (40, False)):
        design = first_design(space, budgets, evaluations, seed=0)
        assert (scan <= set(design)) == whole
        drawn = [each for each in design if each not in scan]
        assert len(drawn) == evaluations // 6
        assert {sum(budget.holds(each) for budget in budgets) for each in drawn} == {1, 2}
        assert design == first_design(space, budgets, evaluations, seed=0)
