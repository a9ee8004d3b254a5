"""Sizes of slices as sums of layers' shares: exactly those of the planned checkpoint."""

import random
from pathlib import Path

import pytest

from matformer_lab.parent.opening import open_parent
from matformer_lab.search.method.costs import MEASURES, CostTable
from matformer_lab.search.method.space import make_space, pattern_of, slice_of
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of

WIDTHS = [Width.parse(width) for width in ("1/4", "1/2", "full")]


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("text_only", [False, True])
def test_shares_add_up_to_the_planned_size(pico_full: Path, kind: str, text_only: bool) -> None:
    parent = open_parent(pico_full)
    space = make_space(parent.text, WIDTHS, "any")
    costs = CostTable(parent, space).costs(kind, context=100, text_only=text_only)
    rng = random.Random(0)
    tried = 0
    while tried < 20:
        pattern = tuple(rng.choice(choices) for choices in space.choices)
        if not space.valid(pattern):
            continue
        tried += 1
        slice_ = slice_of(pattern, "any")
        sizes = sizes_of(make_plan(parent, slice_, text_only=text_only), 100)
        assert costs.of(pattern) == MEASURES[kind](sizes)
        assert pattern_of(slice_, len(pattern)) == pattern
