"""Paired statistics on arrays: mean differences with interval, test and equivalence, Holm's correction, ranks.

One test answers each question, Student's t on the differences: it is about the mean that is reported, and its p,
interval and sign cannot contradict each other. Distributions and ranks are scipy's. Written out is what scipy has not:
the correction for overlapping training sets, and Holm's (statsmodels would be a dependency for a loop of four lines).
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Name = TypeVar("Name")

CONFIDENCE = 0.95
ALPHA = 0.05
# Differences below are ties: they are rounding.
TIE = 1e-9
# Of Dice: cases that move by more are counted.
POINT = 0.01
RANK_RESAMPLES = 2_000
POWER = 0.8
# Pairs of trainings, from which a method is judged.
FEWEST = 3


@dataclass(frozen=True)
class Estimate:
    """A mean of paired differences, ours - theirs, and what is known of it.

    Attributes:
        count: pairs (units, or trainings).
        finite: those with two finite values, which means, interval and spread are over.
        ours, theirs, difference: means, None without a pair.
        low, high: 95 % confidence interval of the mean, None for a single pair or where all differ alike.
        spread: standard deviation of the differences, None for a single pair.
        p: two-sided, None where nothing can be tested.
        towards: 1 if what was tested says that ours is better, -1 worse, 0 neither.
        test: "t" or, where differences are infinite, "signed-rank".
        p_equivalent: of two one-sided tests (Schuirmann 1987) that the difference is within the margin; None without.
        false_claim: probability that the claim "better" or "worse", by the sign of the difference, is false; None where
            nothing can be tested.
    """

    count: int
    finite: int
    ours: float | None = None
    theirs: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    p: float | None = None
    towards: int = 0
    test: str = "t"
    p_equivalent: float | None = None
    false_claim: float | None = None


@dataclass(frozen=True)
class Pairs:
    """How many units are better, equal and worse, and how many moved by more than a point."""

    wins: int
    draws: int
    losses: int
    improved: int
    worsened: int


def estimate(
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    higher_is_better: bool = True,
    margin: float | None = None,
    overlap: float = 0.0,
) -> Estimate:
    """Compares paired values of one metric.

    Student's t with the standard error s sqrt(1 / n + overlap). For n trainings with overlapping training sets
    `overlap` is n_test / n_train (Nadeau and Bengio 2003, Machine Learning 52, 239-281, corrected resampled t test);
    for independent units it is 0. The probability of a false claim is the posterior under a flat prior, t_{n-1}(-|t|):
    for units the formula of Christodoulou et al. 2025 (arXiv 2505.04720), for trainings that of Corani and Benavoli
    2015 (Machine Learning 100, 285-304). Infinite differences have no mean: Wilcoxon's test ranks them last instead.
    What is infinite on both sides is a draw, and has no part in the mean.

    Args:
        ours, theirs: values in the same order, (n,), inf where the metric is infinite; none nan.
        higher_is_better: whether large values are good.
        margin: differences within count as equivalent.
        overlap: n_test / n_train of trainings.
    """
    gaps = differences(ours, theirs)
    known = np.isfinite(ours) & np.isfinite(theirs)
    finite = gaps[known]
    means = {"ours": np.asarray(ours, float)[known], "theirs": np.asarray(theirs, float)[known], "difference": finite}
    found: dict[str, Any] = {name: float(values.mean()) for name, values in means.items() if len(values)}
    sign = 0
    if len(finite) > 1:
        found |= _student(finite, margin, overlap)
        sign = int(np.sign(finite.mean()))
    if np.isinf(gaps).any():
        p, sign = _signed_rank(gaps)
        found |= {"p": p, "test": "signed-rank", "p_equivalent": None, "false_claim": None}
    return Estimate(len(gaps), len(finite), **found, towards=sign if higher_is_better else -sign)


def _student(gaps: np.ndarray, margin: float | None, overlap: float) -> dict[str, float | None]:
    from scipy.special import stdtr, stdtrit

    n, mean, spread = len(gaps), float(gaps.mean()), float(gaps.std(ddof=1))
    low = high = None
    if spread < TIE:
        # Equal differences have no spread to test with: the sign test's p is the most that they can show.
        spread = 0.0
        surest = 2.0 ** (1 - n)
        one_sided = surest / 2 if abs(mean) >= TIE else 0.5
        within = surest if margin is not None and abs(mean) < margin else 1.0
    else:
        error = spread * math.sqrt(1 / n + overlap)
        reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
        low, high = mean - reach, mean + reach
        one_sided = float(stdtr(n - 1, -abs(mean) / error))
        within = float(stdtr(n - 1, (abs(mean) - (margin or 0.0)) / error))
    return {
        "low": low,
        "high": high,
        "spread": spread,
        "p": 2 * one_sided,
        "p_equivalent": None if margin is None else within,
        "false_claim": one_sided,
    }


def differences(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns ours - theirs, 0 for what differs by rounding or is infinite in both, (n,)."""
    with np.errstate(invalid="ignore"):
        gaps = np.asarray(ours, float) - np.asarray(theirs, float)
    return np.where(np.isnan(gaps) | (np.abs(gaps) < TIE), 0.0, gaps)


def count_pairs(gaps: np.ndarray, higher_is_better: bool = True) -> Pairs:
    """Counts the units that are better, equal and worse, from the differences, (n,)."""
    gains = gaps if higher_is_better else -gaps
    return Pairs(*(int(found.sum()) for found in (gains > 0, gains == 0, gains < 0, gains > POINT, gains < -POINT)))


def _signed_rank(gaps: np.ndarray) -> tuple[float, int]:
    """Returns Wilcoxon's two-sided p, and the sign of the rank sums."""
    from scipy.stats import rankdata, wilcoxon

    # Ranks only: an infinite difference is larger than every finite one.
    largest = np.abs(gaps[np.isfinite(gaps)]).max(initial=0.0)
    ranked = np.where(np.isinf(gaps), np.sign(gaps) * (2 * largest + 1), gaps)
    ranked = ranked[ranked != 0]
    sign = int(np.sign((np.sign(ranked) * rankdata(np.abs(ranked))).sum()))
    return float(wilcoxon(ranked).pvalue), sign


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Returns the p-values after Holm's step-down correction (Holm 1979), by the same names."""
    corrected, running = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = running
    return {name: corrected[name] for name in p_values}


def pairs_needed(spread: float, difference: float, overlap: float, most: int = 1_000) -> int | None:
    """Returns how many pairs of trainings show a difference with a power of 80 %, None if `most` do not.

    Args:
        spread: standard deviation of the pairs' differences.
        difference: what is to be shown.
        overlap: n_test / n_train; it bounds what any number of trainings on one data set can show.
    """
    from scipy.special import nctdtr, stdtrit

    if spread < TIE:
        # Differences that are all alike are tested by their signs alone.
        return 1 + math.ceil(math.log2(1 / ALPHA))

    def power(count: int) -> float:
        shift = difference / (spread * math.sqrt(1 / count + overlap))
        return 1 - float(nctdtr(count - 1, shift, stdtrit(count - 1, (1 + CONFIDENCE) / 2)))

    counts = range(FEWEST, most + 1)
    found = bisect_left(counts, POWER, key=power)
    return counts[found] if found < len(counts) else None


@dataclass(frozen=True)
class Rank:
    """The place of a method by its mean, 1 being the best, and how firm it is over resamples of units and trainings.

    Attributes:
        rank: in the data.
        low, high: 2.5th and 97.5th percentile over the resamples.
        first: share of the resamples in which it is the best.
    """

    rank: int
    low: int
    high: int
    first: float


def rank_stability(values: Mapping[str, np.ndarray], higher_is_better: bool = True) -> dict[str, Rank]:
    """Returns the rank of every method and its range over resamples of units and of trainings, both drawn anew.

    Args:
        values: for each method (trainings, units), nan where a training has none; all with the same units.
    """
    from scipy.stats import rankdata

    generator = np.random.default_rng(0)

    def weights(count: int) -> np.ndarray:
        """How often each is drawn; the first row is the data as they are."""
        drawn = generator.multinomial(count, np.full(count, 1 / count), RANK_RESAMPLES)
        return np.vstack([np.ones((1, count)), drawn])

    of_units = weights(next(iter(values.values())).shape[1])
    means = []
    for array in values.values():
        there, of_trainings = np.isfinite(array), weights(len(array))
        known = of_trainings @ there
        by_unit = of_trainings @ np.where(there, array, 0.0) / np.maximum(known, 1)
        units = (of_units * (known > 0)).sum(axis=1)
        # A mean over nothing is last.
        worst = -np.inf if higher_is_better else np.inf
        means.append(np.where(units > 0, (of_units * by_unit).sum(axis=1) / np.maximum(units, 1), worst))
    best_first = np.array(means) * (-1 if higher_is_better else 1)
    # Rounded, as what differs by less is a tie.
    ranks = rankdata(np.round(best_first / TIE), method="min", axis=0).astype(int)
    ends = np.quantile(ranks[:, 1:], (ALPHA / 2, 1 - ALPHA / 2), axis=1, method="nearest")
    return {
        name: Rank(int(ranks[row, 0]), int(ends[0, row]), int(ends[1, row]), float((ranks[row, 1:] == 1).mean()))
        for row, name in enumerate(values)
    }
