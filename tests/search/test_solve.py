"""The solver against every slice there is."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.budget import Budget, make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.solve import Cut, Values, check_budgets, solve
from matformer_lab.search.method.space import Pattern, Space, distance, make_space
from matformer_lab.slicing.notation.width import Width
from matformer_lab.sweep.search_block import BudgetEntry

WIDTHS = [Width.parse(width) for width in ("1/4", "1/2", "full")]


@pytest.fixture(scope="module")
def parent(pico: Path) -> Parent:
    return open_parent(pico)


def small(parent: Parent, free: tuple[int, ...] = (0, 6, 8, 9), skip: str = "any") -> Space:
    """Only some layers have a choice, so that all slices can be tried."""
    space = make_space(parent.text, WIDTHS, skip)  # type: ignore[arg-type]
    choices = tuple(
        each if layer in free else (max(each),) for layer, each in enumerate(space.choices)
    )
    return Space(space.text, choices, space.skip_sets)


def budget(parent: Parent, space: Space, most: int) -> Budget:
    (made,) = make_budgets([BudgetEntry(max_params=most)], CostTable(parent, space))
    return made


def everything(space: Space) -> list[Pattern]:
    return [pattern for pattern in product(*space.choices) if space.valid(pattern)]


def worth(values: Values, pattern: Pattern) -> float:
    return sum(each[width] for each, width in zip(values, pattern, strict=True))


def drawn(data: st.DataObject, space: Space) -> Values:
    number = st.floats(-1, 1)
    return tuple({width: data.draw(number) for width in each} for each in space.choices)


@settings(max_examples=25)
@given(data=st.data())
def test_the_solution_is_the_best_of_all_slices(parent: Parent, data: st.DataObject) -> None:
    space = small(parent)
    every = everything(space)
    table = budget(parent, space, 10**9).parameters
    most = data.draw(st.sampled_from(sorted({table.of(pattern) for pattern in every})))
    one = budget(parent, space, most)
    values = drawn(data, space)
    found = solve(space, [one], [values])
    assert found is not None
    best = max(worth(values, pattern) for pattern in every if one.holds(pattern))
    assert one.holds(found[0]) and space.valid(found[0])
    assert worth(values, found[0]) == pytest.approx(best, abs=1e-6)


@settings(max_examples=10)
@given(data=st.data())
def test_nested_results_lie_within_each_other(parent: Parent, data: st.DataObject) -> None:
    space = small(parent, free=(0, 8))
    every = everything(space)
    table = budget(parent, space, 10**9).parameters
    sizes = sorted({table.of(pattern) for pattern in every})
    budgets = [budget(parent, space, sizes[k]) for k in (len(sizes) // 3, 2 * len(sizes) // 3)]
    values = [drawn(data, space), drawn(data, space)]
    found = solve(space, budgets, values, nested=True)
    best = max(
        worth(values[0], a) + worth(values[1], b)
        for a in every
        for b in every
        if budgets[0].holds(a) and budgets[1].holds(b)
        if all(x <= y for x, y in zip(a, b, strict=True))
    )
    assert found is not None
    assert all(x <= y for x, y in zip(*found, strict=True))
    total = sum(worth(v, f) for v, f in zip(values, found, strict=True))
    assert total == pytest.approx(best, abs=1e-6)


def test_cuts_give_other_slices(parent: Parent) -> None:
    space = small(parent)
    one = budget(parent, space, 10**9)
    values = tuple({width: float(width) for width in each} for each in space.choices)
    cuts: list[Cut] = []
    for _ in range(5):
        found = solve(space, [one], [values], cuts=cuts)
        assert found is not None
        assert all(distance(cut.patterns[0], found[0]) >= 2 for cut in cuts)
        cuts.append(Cut(found, 2))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_best_near_a_slice(parent: Parent, layers: int) -> None:
    space = small(parent)
    one = budget(parent, space, 10**9)
    values = tuple({width: float(-width) for width in each} for each in space.choices)
    found = solve(space, [one], [values], near=Cut((space.full,), layers))
    best = max(
        worth(values, pattern)
        for pattern in everything(space)
        if distance(pattern, space.full) <= layers
    )
    assert found is not None and worth(values, found[0]) == best


def test_given_skip_sets_are_taken_whole(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, [(), (6, 7)])
    one = budget(parent, space, 10**9)
    values = tuple({width: 0.0 if width else 1.0 for width in each} for each in space.choices)
    found = solve(space, [one], [values])
    assert found is not None
    assert [layer for layer, width in enumerate(found[0]) if not width] == [6, 7]


def test_one_width_for_all_where_runtimes_want_that(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "any", uniform=True)
    one = budget(parent, space, 10**9)
    values = tuple({w: float(w == 32) + 0.9 * (w == 64) for w in each} for each in space.choices)
    found = solve(space, [one], [values])
    assert found is not None and set(found[0]) == {32}


def whole(parent: Parent, space: Space) -> int:
    return budget(parent, space, 10**9).parameters.of(space.full)


def test_budgets_out_of_reach_are_errors(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "none")
    largest = whole(parent, space)
    check_budgets(space, [budget(parent, space, largest)])
    with pytest.raises(InputError, match=r"above the largest slice, which takes [\d,]+"):
        check_budgets(space, [budget(parent, space, largest + 1)])
    with pytest.raises(InputError, match=r"below the smallest slice, which takes [\d,]+; raise"):
        check_budgets(space, [budget(parent, space, 1000)])


def test_two_budgets_with_the_same_slices_are_an_error(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "none")
    largest = whole(parent, space)
    two = [budget(parent, space, largest - 5), budget(parent, space, largest - 6)]
    with pytest.raises(InputError, match="give the same slice"):
        check_budgets(space, two)


def test_limits_that_exclude_each_other_are_an_error(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "none")
    table = CostTable(parent, space)
    with pytest.raises(InputError, match=r"`max_bytes` 100B is below the smallest slice"):
        check_budgets(
            space,
            make_budgets([BudgetEntry(max_params=whole(parent, space), max_bytes="100B")], table),
        )


@pytest.mark.parametrize("written", ["lots", "-3", "0", "3.0X"])
def test_an_amount_that_is_none_is_an_error(parent: Parent, written: str) -> None:
    space = make_space(parent.text, WIDTHS, "none")
    with pytest.raises(InputError, match="`max_params` is"):
        make_budgets([BudgetEntry(max_params=written)], CostTable(parent, space))


def test_a_budget_given_twice_is_an_error(parent: Parent) -> None:
    space = make_space(parent.text, WIDTHS, "none")
    entries = [BudgetEntry(max_params=9000), BudgetEntry(max_params=9000)]
    with pytest.raises(InputError, match="given twice"):
        make_budgets(entries, CostTable(parent, space))
