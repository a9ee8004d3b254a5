"""Statistics of paired outcomes against brute force and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from matformer_lab.statistics.outcomes import Outcomes, make_outcomes
from matformer_lab.statistics.paired import (
    Resampled,
    bootstrap,
    covariance,
    critical_value,
    discordant,
    holm,
    mcnemar,
    wilson,
)
from tests.support.worlds import outcomes, world

# --- one score ---


@given(outcomes())
def test_a_score_is_the_mean_over_items_or_over_subjects(o: Outcomes) -> None:
    assert o.weights.sum() == pytest.approx(1)
    assert (o.values >= 0).all() and (o.values <= 1 + 1e-12).all()


def test_macro_counts_every_subject_the_same() -> None:
    scores, subjects = np.array([[1.0, 1, 1, 0]]), ["a", "a", "a", "b"]
    assert make_outcomes(["s"], scores, subjects).values[0] == pytest.approx(0.75)
    assert make_outcomes(["s"], scores, subjects, macro=True).values[0] == pytest.approx(0.5)


def test_outcomes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="slices, items"):
        make_outcomes(["a", "b"], np.zeros((3, 4)))


@given(outcomes(), st.sampled_from([0, 1]))
def test_covariance_is_the_stratified_one(o: Outcomes, ddof: int) -> None:
    count = len(o.slices)
    expected = np.zeros((count, count))
    for stratum in set(o.strata.tolist()):
        here = o.strata == stratum
        n = here.sum()
        if n <= ddof:
            continue
        share = o.weights[here].sum()  # the stratum's part in the score
        expected += share**2 * np.cov(o.scores[:, here], ddof=ddof).reshape(count, count) / n
    np.testing.assert_allclose(covariance(o, ddof=ddof), expected, atol=1e-12)


def test_the_bootstrap_has_the_covariance_it_must_have() -> None:
    rng = np.random.default_rng(1)
    table = world(rng, [0, 0.2, 0.5], 90)
    o = make_outcomes(["a", "b", "c"], table, ["x"] * 20 + ["y"] * 70, macro=True)
    resampled = bootstrap(o, 40_000, np.random.default_rng(2))
    expected = covariance(o, ddof=0)
    np.testing.assert_allclose(np.cov(resampled.T, ddof=0), expected, rtol=0.05, atol=2e-6)
    assert np.abs(resampled.mean(axis=0)).max() < 4 * np.sqrt(expected.max() / 40_000)


def test_the_bootstrap_draws_the_same_items_for_every_slice() -> None:
    row = (np.arange(50) % 3 == 0).astype(float)
    o = make_outcomes(["a", "b", "c"], np.stack([row, row, 1 - row]))
    resampled = bootstrap(o, 200, np.random.default_rng(0))
    np.testing.assert_allclose(resampled[:, 0], resampled[:, 1], atol=1e-12)
    np.testing.assert_allclose(resampled[:, 0], -resampled[:, 2], atol=1e-12)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_plain_accuracy_has_wilsons_interval(case: tuple[int, int]) -> None:
    right, n = case
    p = right / n
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(p, math.sqrt(p * (1 - p) / n), n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_leaves_what_is_no_proportion_symmetric() -> None:
    assert wilson(12.0, 0.5, 100) == pytest.approx((12 - 0.98, 12 + 0.98), abs=1e-3)


# --- tests and corrections ---


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    found = mcnemar(np.array([wins]), np.array([losses]))[0]
    assert found == pytest.approx(expected, rel=1e-9)


@given(outcomes(macro=False))
def test_discordant_counts_items(o: Outcomes) -> None:
    wins = discordant(o)
    for i in range(len(o.slices)):
        for j in range(len(o.slices)):
            assert wins[i, j] == sum((o.scores[i] == 1) & (o.scores[j] == 0))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_exactly_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    adjusted = holm(np.array(p))
    alpha, left = 0.05, len(p)
    for k in np.argsort(p, kind="stable"):
        if p[k] * left > alpha:
            break
        assert adjusted[k] <= alpha + 1e-12
        left -= 1
    assert (adjusted <= alpha).sum() == len(p) - left


def test_independent_comparisons_get_sidaks_width() -> None:
    rng = np.random.default_rng(4)
    deviations = rng.normal(size=(40_000, 20))
    errors = np.full((20, 20), math.sqrt(2.0))
    left, right = np.arange(0, 20, 2), np.arange(1, 20, 2)
    expected = norm.ppf((1 + 0.95 ** (1 / 10)) / 2)
    found = critical_value([Resampled(deviations, errors, left, right)])
    assert found == pytest.approx(expected, rel=0.02)
