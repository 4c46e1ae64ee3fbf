"""Statistics against hand-computed values and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from nnunetv2_salstm.evaluation.statistics import (
    Pairs,
    count_pairs,
    differences,
    estimate,
    holm,
    pairs_needed,
    rank_stability,
)

INF = math.inf


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, and never falling.
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_the_test_and_its_interval_are_scipys():
    ours, theirs = np.random.default_rng(0).normal([[0.9], [0.88]], 0.03, (2, 12))
    found = estimate(ours, theirs, margin=0.05)
    expected = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.false_claim == pytest.approx(stats.ttest_rel(ours, theirs, alternative="greater").pvalue)
    # Two one-sided tests: the larger p counts.
    sides = [
        stats.ttest_1samp(ours - theirs, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(ours - theirs, 0.05, alternative="less").pvalue,
    ]
    assert found.p_equivalent == pytest.approx(max(sides))


def test_the_corrected_resampled_t_test_by_hand():
    # Nadeau and Bengio: t = mean / (s sqrt(1 / 5 + 1 / 4)) with 4 degrees of freedom; mean 0.02, s 0.01.
    gaps = 0.02 + 0.01 * np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) / math.sqrt(0.625)
    found = estimate(gaps, np.zeros(5), overlap=0.25)
    error = 0.01 * math.sqrt(0.45)
    assert (found.difference, found.spread) == pytest.approx((0.02, 0.01))
    assert found.p == pytest.approx(2 * stats.t.sf(0.02 / error, 4))
    assert found.high - 0.02 == pytest.approx(2.776445 * error)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_sign_is_that_of_the_mean_that_is_reported(higher_is_better):
    # Thirty small wins and 28 large losses.
    gaps = np.array([0.001] * 30 + [-0.01] * 28)
    found = estimate(0.9 + gaps, np.full(58, 0.9), higher_is_better)
    assert found.difference < 0
    assert found.high < 0
    assert found.p < 0.001
    assert found.towards == (-1 if higher_is_better else 1)
    pairs = count_pairs(differences(0.9 + gaps, np.full(58, 0.9)), higher_is_better)
    assert (pairs.wins, pairs.losses) == ((30, 28) if higher_is_better else (28, 30))


def test_equal_wins_and_losses_can_still_decide():
    found = estimate([0.05, 0.06, 0.04, 0.05, -0.001, -0.001, -0.001, -0.001] * 4, np.zeros(32))
    assert found.p < 0.001
    assert found.towards == 1


def test_infinite_differences_are_ranked_last():
    gaps = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])
    found = estimate([0.1, 0.0, 0.3, 0.4, 0.0, INF], [0.0, 0.2, 0.0, 0.0, 0.5, 0.0], higher_is_better=False)
    assert found.test == "signed-rank"
    assert found.p == pytest.approx(stats.wilcoxon(gaps).pvalue)
    assert (found.count, found.finite, found.towards) == (6, 5, -1)
    assert found.difference == pytest.approx(gaps[:5].mean())
    assert (found.p_equivalent, found.false_claim) == (None, None)
    all_infinite = estimate([INF] * 6, [1.0] * 6, higher_is_better=False)
    assert (all_infinite.p, all_infinite.difference, all_infinite.towards) == (pytest.approx(0.03125), None, -1)


def test_infinite_in_both_is_a_draw():
    found = differences([INF, INF, 2.0, 1.0], [INF, 3.0, INF, 2.0])
    assert found.tolist() == [0.0, INF, -INF, -1.0]
    assert count_pairs(found, higher_is_better=False) == Pairs(wins=2, draws=1, losses=1, improved=2, worsened=1)


@pytest.mark.parametrize(("values", "p", "interval"), [([], None, None), ([0.1], None, None), ([0.0] * 5, 1.0, None)])
def test_too_little_to_test(values, p, interval):
    found = estimate(values, np.zeros(len(values)), margin=0.01)
    assert (found.p, found.low, found.high) == (p, interval, interval)


def test_equal_differences_show_no_more_than_the_sign_test():
    found = estimate([0.5, 0.5, 0.5], [0.4, 0.4, 0.4], margin=0.01)
    assert (found.p, found.towards, found.p_equivalent) == (0.25, 1, 1.0)
    assert (found.low, found.high, found.spread) == (None, None, 0.0)  # an interval of no width would be certain


def test_what_is_infinite_in_both_has_no_part_in_the_mean():
    found = estimate([INF, 2.0, 1.0], [INF, 3.0, 4.0], higher_is_better=False)
    assert (found.test, found.count, found.finite, found.difference) == ("t", 3, 2, -2.0)


def test_rounding_is_a_draw():
    assert differences([0.3], [0.1 + 0.2]).tolist() == [0.0]


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_the_trainings_needed_have_the_power(overlap):
    count = pairs_needed(0.004, 0.01, overlap)
    generator = np.random.default_rng(0)
    # What trainings share through their overlapping training sets moves all of them alike.
    gaps = generator.normal(0.01, 0.004, (2000, count)) + generator.normal(0, 0.004 * overlap**0.5, (2000, 1))
    found = [estimate(row, np.zeros(count), overlap=overlap).p < 0.05 for row in gaps]
    assert 0.78 < np.mean(found)
    fewer = [estimate(row[:-1], np.zeros(count - 1), overlap=overlap).p < 0.05 for row in gaps]
    assert np.mean(fewer) < 0.82
    # However many: the training sets overlap.
    assert pairs_needed(0.02, 0.005, 0.25) is None


def test_the_trainings_needed_where_all_differ_alike_are_what_the_test_asks_for():
    count = pairs_needed(0.0, 0.01, 0.25)
    below, enough = (estimate(np.full(n, 0.9), np.full(n, 0.88), overlap=0.25).p for n in (count - 1, count))
    assert enough < 0.05 < below


def test_ranks():
    units = np.random.default_rng(0).normal(0.8, 0.05, 40)
    noise = np.random.default_rng(1).normal(0, 0.01, (4, 2, 40))
    values = {"a": units + noise[0], "b": units + 0.1 + noise[1], "c": units + noise[2]}
    ranks = rank_stability(values)
    assert (ranks["b"].rank, ranks["b"].low, ranks["b"].high, ranks["b"].first) == (1, 1, 1, 1.0)
    assert {ranks["a"].rank, ranks["c"].rank} == {2, 3}
    assert (ranks["a"].low, ranks["a"].high) == (2, 3)
    assert rank_stability(values, higher_is_better=False)["b"].rank == 3
    assert rank_stability(values) == ranks


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_mean_over_nothing_is_last(higher_is_better):
    values = {"nothing": np.full((2, 9), np.nan), "a": np.full((2, 9), 0.5), "b": np.full((2, 9), -0.5)}
    assert rank_stability(values, higher_is_better)["nothing"].rank == 3


def test_a_rank_does_not_hold_over_another_training():
    # One lucky training of two: the mean is first, but not where the unlucky one is drawn twice.
    values = {"a": np.array([[0.9] * 30, [0.7] * 30]), "b": np.full((2, 30), 0.75), "c": np.full((2, 30), 0.5)}
    found = rank_stability(values)["a"]
    assert (found.rank, found.low, found.high) == (1, 1, 2)
    assert 0.7 < found.first < 0.8
