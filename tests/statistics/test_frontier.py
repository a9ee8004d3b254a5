"""The frontier against its definition, and against worlds whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from matformer_lab.statistics.outcomes import Outcomes, make_outcomes
from matformer_lab.statistics.paired import covariance
from matformer_lab.statistics.panel import unpaired
from matformer_lab.statistics.pareto import pareto
from matformer_lab.statistics.ranking import rank
from matformer_lab.statistics.sample_size import items_needed
from matformer_lab.statistics.study import AVERAGE, make_study
from tests.support.worlds import outcomes, panel_of, world

sizes_and_scores = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 5), min_size=n, max_size=n),
        st.lists(st.integers(0, 5), min_size=n, max_size=n),
    )
)


# --- Pareto set ---


@given(sizes_and_scores)
def test_pareto_is_what_its_definition_says(case: tuple[list[int], list[int]]) -> None:
    sizes, scores = case
    everyone = range(len(sizes))
    expected = [
        not any(
            sizes[r] <= sizes[s]
            and scores[r] >= scores[s]
            and (sizes[r] < sizes[s] or scores[r] > scores[s])
            for r in everyone
        )
        for s in everyone
    ]
    assert pareto(sizes, scores).tolist() == expected


def test_pareto_of_replicates_is_pareto_of_each() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, 7).astype(float)
    scores = rng.integers(0, 4, (50, 7)).astype(float)
    together = pareto(sizes, scores)
    assert all((together[b] == pareto(sizes, scores[b])).all() for b in range(50))


def test_one_comparison_is_as_wide_as_one_comparison() -> None:
    panel = panel_of(world(np.random.default_rng(3), [0, 0.4], 4000), replicates=20_000)
    assert panel.critical == pytest.approx(1.96, abs=0.04)


def test_slices_that_never_differ_have_no_part_in_the_width() -> None:
    row = (np.arange(400) % 3 == 0).astype(float)
    panel = panel_of(np.stack([row, row, row]))
    assert panel.critical == pytest.approx(1.96, abs=0.001)
    found = panel.compare("s0", "s1")
    assert found.difference == 0 and found.low < 0 < found.high and not found.separable


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_slices_that_get_everything_right_are_not_known_to_be_equal(answer: float) -> None:
    panel = panel_of(np.full((2, 50), answer))
    found = panel.compare("s0", "s1")
    # One item in 50, times 1.96.
    assert (found.low, found.high) == pytest.approx((-0.0392, 0.0392), abs=1e-3)
    assert items_needed(panel, "s0", "s1").detectable > 0.04


def test_the_same_seed_gives_the_same_study_and_another_seed_nearly() -> None:
    # Many unlike pairs: with few, the quantile takes few values and two seeds may share one
    table = world(np.random.default_rng(5), [0, 0.1, 0.25, 0.45, 0.7, 1.0], 311)
    one, two, other = panel_of(table), panel_of(table), panel_of(table, seed=1)
    assert one.critical == two.critical
    assert one.critical != pytest.approx(other.critical, rel=1e-9)
    assert one.critical == pytest.approx(other.critical, rel=0.1)


def test_the_average_is_the_mean_of_the_tasks_and_needs_all_of_them() -> None:
    rng = np.random.default_rng(6)
    a = make_outcomes(["x", "y", "z"], world(rng, [0, 1, 2], 80))
    b = make_outcomes(["x", "z"], world(rng, [0, 2], 200))
    study = make_study({"a": a, "b": b}, replicates=500)
    average = study.panels[AVERAGE]
    assert average.slices == ("x", "z") and average.n == 280
    np.testing.assert_allclose(
        average.values, [(a.values[0] + b.values[0]) / 2, (a.values[2] + b.values[1]) / 2]
    )
    variance = (covariance(a)[0, 0] + covariance(b)[0, 0]) / 4
    assert average.stderrs[0] == pytest.approx(math.sqrt(variance))
    assert study.comparisons == 3 + 1 + 1 and study.tests == 3 + 1


def test_a_restricted_family_is_narrower() -> None:
    table = world(np.random.default_rng(7), [0, 0.1, 0.2, 0.3, 0.4, 0.5], 500)
    o = {"t": make_outcomes([f"s{k}" for k in range(6)], table)}
    every = make_study(o, replicates=2000)
    few = make_study(o, replicates=2000, between=[("s0", "s5")])
    assert few.comparisons == 1 and few.critical < every.critical
    assert few.panels["t"].compare("s0", "s5").p_holm == pytest.approx(
        few.panels["t"].compare("s0", "s5").p
    )


# --- verdicts ---


@settings(max_examples=150)
@given(outcomes(macro=False), st.data())
def test_verdicts_follow_from_the_intervals(o: Outcomes, data: st.DataObject) -> None:
    panel = make_study({"t": o}, replicates=200).panels["t"]
    sizes = {name: data.draw(st.integers(1, 4)) for name in o.slices}
    ranking = rank(panel, sizes)
    for k, name in enumerate(o.slices):
        rivals = [r for r in o.slices if r != name and sizes[r] <= sizes[name]]
        found = [panel.compare(name, rival) for rival in rivals]
        if any(c.high < 0 for c in found):
            assert ranking.verdicts[k] == "dominated"
            assert ranking.dominated_by[k] in rivals
            assert panel.compare(name, str(ranking.dominated_by[k])).high < 0
            assert not ranking.pareto[k]
        elif all(c.low > 0 for c in found):
            assert ranking.verdicts[k] == "on the frontier" and ranking.pareto[k]
        else:
            assert ranking.verdicts[k] == "not separable"


def test_verdicts_in_a_world_with_a_known_answer() -> None:
    rng = np.random.default_rng(8)
    table = world(rng, [-1.5, 0.0, -1.5, 0.02], 3000)
    panel = panel_of(table)
    ranking = rank(panel, {"s0": 1, "s1": 2, "s2": 3, "s3": 4})
    assert ranking.verdicts == ("on the frontier", "on the frontier", "dominated", "not separable")
    assert ranking.dominated_by == (None, None, "s1", None)
    assert ranking.membership[0] == 1 and ranking.membership[2] == 0
    assert 0 < ranking.membership[3] < 1


def test_unpaired_panels_judge_a_smaller_is_better_metric() -> None:
    panel = unpaired(
        "ppl", ["a", "b", "c"], [20.0, 10.0, 15.0], [0.1, 0.1, math.nan], 50, higher_is_better=False
    )
    ranking = rank(panel, {"a": 1, "b": 2, "c": 3})
    assert ranking.verdicts == ("on the frontier", "on the frontier", "not separable")
    assert ranking.pareto.tolist() == [True, True, False]
    assert rank(panel, {"a": 2, "b": 1, "c": 3}).verdicts[0] == "dominated"


def test_a_slice_that_is_not_there_is_a_key_error() -> None:
    panel = panel_of(world(np.random.default_rng(9), [0, 1], 50))
    with pytest.raises(KeyError):
        panel.compare("s0", "nobody")


# --- planning ---


def test_items_needed_gives_the_power_it_promises() -> None:
    rng = np.random.default_rng(10)
    pilot = panel_of(world(rng, [0.0, 0.25], 200_000))
    plan = items_needed(pilot, "s0", "s1", critical=1.96, power=0.8)
    assert plan.need is not None and plan.need < plan.have
    separated = 0
    for _ in range(400):
        table = world(rng, [0.0, 0.25], plan.need)
        d = table[1] - table[0]
        separated += abs(d.mean()) > 1.96 * d.std(ddof=1) / math.sqrt(plan.need)
    assert separated / 400 == pytest.approx(0.8, abs=0.06)


def test_items_needed_is_connors_formula_for_plain_accuracies() -> None:
    table = world(np.random.default_rng(11), [0.0, 0.3], 5000)
    panel = panel_of(table)
    d = float((table[1] - table[0]).mean())
    p = float((table[1] != table[0]).mean())
    expected = (1.96 * math.sqrt(p) + norm.ppf(0.8) * math.sqrt(p - d * d)) ** 2 / d**2
    found = items_needed(panel, "s0", "s1", critical=1.96).need
    assert found == pytest.approx(expected, rel=0.01)


def test_no_number_of_items_separates_equals() -> None:
    row = (np.arange(100) % 2).astype(float)
    plan = items_needed(panel_of(np.stack([row, row])), "s0", "s1")
    assert plan.need is None and plan.have == 100 and 0 < plan.detectable < 0.1


def test_more_power_and_wider_intervals_need_more_items() -> None:
    panel = panel_of(world(np.random.default_rng(12), [0, 0.1, 0.2], 500))

    def need(critical: float, power: float) -> int:
        found = items_needed(panel, "s0", "s2", critical=critical, power=power).need
        assert found is not None
        return found

    needs = [need(1.96, 0.8), need(1.96, 0.95), need(3.5, 0.95)]
    assert needs == sorted(set(needs))


# --- error rates, the point of it all ---


@pytest.mark.parametrize("items", [60, 250, 1000])
def test_equal_slices_are_rarely_told_apart(items: int) -> None:
    """8 equal slices, 28 pairs: 5 % of worlds may show any difference at all."""
    rng = np.random.default_rng(items)
    wrong = 0
    for repeat in range(300):
        panel = panel_of(world(rng, [0.0] * 8, items), seed=repeat)
        upper = np.triu_indices(8, 1)
        wrong += bool((np.abs(panel.differences) > panel.critical * panel.errors)[upper].any())
    assert wrong / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_all_intervals_hold_together_in_nineteen_of_twenty_worlds() -> None:
    skills = [0.0, 0.1, 0.3, 0.35, 0.8]
    truth = world(np.random.default_rng(13), skills, 2_000_000).mean(axis=1)
    true_differences = truth[:, None] - truth[None, :]
    rng = np.random.default_rng(14)
    held = 0
    for repeat in range(300):
        panel = panel_of(world(rng, skills, 400), seed=repeat)
        off = np.abs(panel.differences - true_differences)
        held += bool((off <= panel.critical * panel.errors)[np.triu_indices(5, 1)].all())
    assert 0.91 < held / 300 < 0.99
