"""Only slices that a runtime loads: what the table of verdicts says, and nothing else."""

import random

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.budget import make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.runtimes import for_runtimes, refused
from matformer_lab.search.method.scan import first_scan
from matformer_lab.search.method.solve import check_budgets, solve
from matformer_lab.search.method.space import make_space
from matformer_lab.slicing.builtin_slices import e4b_text_parent
from matformer_lab.slicing.notation.width import Width
from matformer_lab.sweep.search_block import BudgetEntry

WIDTHS = [Width.parse(width) for width in ("1/2", "full")]


@pytest.fixture(scope="module")
def e4b() -> Parent:
    return e4b_text_parent()


def test_llama_cpp_leaves_one_width_and_skips_from_layer_20(e4b: Parent) -> None:
    space = for_runtimes(e4b, make_space(e4b.text, WIDTHS, "any"), ["llama.cpp"])
    assert space.uniform
    assert [layer for layer, each in enumerate(space.choices) if 0 in each] == list(range(20, 35))
    scan = first_scan(space, 1000)
    assert scan and all(space.valid(pattern) for pattern in scan)
    for pattern in random.Random(0).sample(scan, 5):
        assert not refused(e4b, pattern, ["llama.cpp"])


def test_what_is_found_loads_and_a_budget_that_nothing_meets_is_an_error(e4b: Parent) -> None:
    everything = make_space(e4b.text, WIDTHS, "any")
    space = for_runtimes(e4b, everything, ["llama.cpp"])
    table = CostTable(e4b, space)
    (one,) = make_budgets([BudgetEntry(max_params="1.91B")], table)
    check_budgets(space, [one], runtimes=["llama.cpp"])
    values = tuple({width: float(width) for width in each} for each in space.choices)
    found = solve(space, [one], [values])
    assert found is not None and not refused(e4b, found[0], ["llama.cpp"])
    (small,) = make_budgets([BudgetEntry(max_params="1.0B")], table)
    with pytest.raises(InputError, match=r"below the smallest slice that llama\.cpp loads"):
        check_budgets(space, [small], runtimes=["llama.cpp"])


def test_given_sets_keep_those_that_load(e4b: Parent) -> None:
    space = make_space(e4b.text, WIDTHS, [(), tuple(range(5, 10)), tuple(range(20, 25))])
    kept = for_runtimes(e4b, space, ["llama.cpp"])
    assert kept.skip_sets == (frozenset(), frozenset(range(20, 25)))
    with pytest.raises(InputError, match="none of these sets"):
        for_runtimes(e4b, make_space(e4b.text, WIDTHS, [(5,)]), ["llama.cpp"])


def test_a_runtime_that_loads_nothing_is_an_error(e4b: Parent) -> None:
    space = make_space(e4b.text, WIDTHS, "none")
    with pytest.raises(InputError, match=r"mlx-lm .* loads no slice of .*: refuses"):
        for_runtimes(e4b, space, ["mlx-lm"])
    with pytest.raises(InputError, match="no verdicts about 'ollama'"):
        for_runtimes(e4b, space, ["ollama"])
