"""The surrogate: it finds the shares that made the numbers, and fills in what was not measured."""

import random
from pathlib import Path

import numpy as np
import pytest

from matformer_lab.parent.opening import open_parent
from matformer_lab.search.method.scan import first_scan, layer_forwards
from matformer_lab.search.method.space import Pattern, Space, make_space
from matformer_lab.search.method.surrogate import fit
from matformer_lab.search.run import rank_correlation
from matformer_lab.slicing.notation.width import Width


@pytest.fixture(scope="module")
def space(pico: Path) -> Space:
    widths = [Width.parse(width) for width in ("1/4", "1/2", "full")]
    return make_space(open_parent(pico).text, widths, "none")


def losses(space: Space, pattern: Pattern) -> float:
    """A loss that every narrow layer multiplies, late layers more than early ones."""
    factors = [1 + 0.02 * layer * (64 / width - 1) for layer, width in enumerate(pattern)]
    return -0.2 * float(np.prod(factors))


def test_it_foretells_slices_that_were_never_measured(space: Space) -> None:
    scan = first_scan(space, 1000)
    model = fit(space, {pattern: losses(space, pattern) for pattern in scan})
    rng = random.Random(0)
    others = [space.draw(rng) for _ in range(50)]
    predicted = [model.predict(pattern) for pattern in others]
    true = [losses(space, pattern) for pattern in others]
    assert model.link == "log loss"
    assert rank_correlation(predicted, true) == pytest.approx(1.0, abs=1e-3)
    assert predicted == pytest.approx(true, rel=0.02)


def test_what_the_parent_loses_too_is_not_multiplied(space: Space) -> None:
    scan = first_scan(space, 1000)
    model = fit(space, {pattern: losses(space, pattern) - 0.8 for pattern in scan})
    others = [space.draw(random.Random(seed)) for seed in range(50)]
    assert model.link == "log excess" and model.floor == pytest.approx(0.8)
    predicted = [model.predict(pattern) for pattern in others]
    assert predicted == pytest.approx([losses(space, one) - 0.8 for one in others], rel=0.02)


def test_a_choice_that_was_not_measured_counts_as_its_width_does(space: Space) -> None:
    scan = [
        pattern for pattern in first_scan(space, 1000) if pattern[9] == 64 or len({*pattern}) == 1
    ]
    model = fit(space, {pattern: losses(space, pattern) for pattern in scan})
    assert model.shares[9][16] < 0, "narrow is not free because nobody has tried it"


def test_an_objective_above_0_has_no_logarithm(space: Space) -> None:
    scan = first_scan(space, 1000)
    model = fit(space, {pattern: 1 + sum(pattern) / 100 for pattern in scan})
    assert model.link == "objective"
    assert model.error < 1e-3


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
