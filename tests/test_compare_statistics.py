"""Statistics against hand-computed values and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from nnunetv2_salstm.evaluation.statistics import Comparison, bootstrap_mean, compare, holm, wilcoxon

INF = math.inf


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, and never falling.
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_wilcoxon_is_scipys():
    gain = np.random.default_rng(0).normal(0.3, 1, 30)
    assert wilcoxon(gain) == pytest.approx(stats.wilcoxon(gain).pvalue)


def test_wilcoxon_ranks_infinite_differences_last():
    finite = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])
    infinite = np.array([0.1, -0.2, 0.3, 0.4, -0.5, INF])
    assert wilcoxon(infinite) == wilcoxon(finite) < 1
    assert wilcoxon(np.array([INF, INF, INF, INF, INF, INF])) == pytest.approx(0.03125)


def test_wilcoxon_without_anything_to_rank():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert wilcoxon(np.zeros(0)) is None


@pytest.mark.parametrize("best", [1, 0])
def test_wins_are_towards_the_best_value(best):
    ours, theirs = [0.9, 0.8, 0.5, 0.5], [0.8, 0.9, 0.4, 0.5]
    found = compare(ours, theirs, best)
    assert (found.wins, found.draws, found.losses) == ((2, 1, 1) if best else (1, 1, 2))
    assert found.mean_difference == pytest.approx(0.025)


def test_infinite_values():
    found = compare([INF, INF, 2.0, 1.0], [INF, 3.0, INF, 2.0], best=0)
    assert (found.wins, found.draws, found.losses) == (2, 1, 1)
    assert (found.units, found.finite, found.mean_difference) == (4, 1, -1.0)
    assert compare([INF], [INF], 0) == Comparison(1, 0, None, None, None, 1.0, 0, 1, 0)
    assert compare([], [], 1) == Comparison(0, 0, None, None, None, None, 0, 0, 0)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        mean, low, high = bootstrap_mean(generator.normal(0.5, 1, 40))
        assert low < mean < high
        covered += low <= 0.5 <= high
    assert 0.88 < covered / 200 < 0.99


def test_rounding_is_a_draw():
    assert compare([0.3], [0.1 + 0.2], 1).draws == 1


@pytest.mark.parametrize(
    ("p", "wins", "losses", "verdict"),
    [
        (0.01, 8, 1, "better"),
        (0.01, 1, 8, "worse"),
        (0.2, 8, 1, "no difference shown"),
        (None, 0, 0, "no difference shown"),
    ],
)
def test_verdict(p, wins, losses, verdict):
    assert Comparison(9, 9, 0.1, 0.0, 0.2, p, wins, 0, losses, p_holm=p).verdict() == verdict
