"""Paired statistics of an arm against the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
# Differences below are ties: they are rounding.
TIE = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Differences arm - baseline over units (cases, or patients where cases are grouped), and what they show.

    Attributes:
        units: how many have the metric in both arms.
        finite: for how many both values are finite; the mean and its interval are over these.
        mean_difference, low, high: mean and bootstrap confidence interval, None without a finite unit.
        p: two-sided Wilcoxon signed-rank, infinite values ranked worst; None without a unit.
        p_holm: p after Holm's correction over everything that was tested; set by `correct`.
        wins, draws, losses: units in which the arm is better, equal, worse.
    """

    units: int
    finite: int
    mean_difference: float | None
    low: float | None
    high: float | None
    p: float | None
    wins: int
    draws: int
    losses: int
    p_holm: float | None = None

    def verdict(self, alpha: float = 1 - CONFIDENCE) -> str:
        """Returns "better", "worse" or "no difference shown", after Holm's correction."""
        if self.p_holm is None or self.p_holm >= alpha or self.wins == self.losses:
            return "no difference shown"
        return "better" if self.wins > self.losses else "worse"


def compare(ours: Sequence[float], theirs: Sequence[float], best: float) -> Comparison:
    """Compares paired values of a metric whose best value is `best`, 1 (more is better) or 0 (nearer is better).

    Args:
        ours: the arm's values, inf where the metric is infinite.
        theirs: the baseline's, in the same order.
        best: the metric's best value.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    with np.errstate(invalid="ignore"):
        # How much nearer to the best value; two infinite ones are equally bad.
        gain = np.nan_to_num(np.abs(b - best) - np.abs(a - best), nan=0.0, posinf=np.inf, neginf=-np.inf)
    gain[np.abs(gain) < TIE] = 0
    finite = np.isfinite(a) & np.isfinite(b)
    mean, low, high = bootstrap_mean(a[finite] - b[finite])
    return Comparison(
        units=len(a),
        finite=int(finite.sum()),
        mean_difference=mean,
        low=low,
        high=high,
        p=wilcoxon(gain),
        wins=int((gain > 0).sum()),
        draws=int((gain == 0).sum()),
        losses=int((gain < 0).sum()),
    )


def bootstrap_mean(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Returns the mean and its percentile bootstrap interval; the same values give the same interval."""
    if not len(values):
        return None, None, None
    generator = np.random.default_rng(0)
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(values.mean()), float(low), float(high)


def wilcoxon(gain: np.ndarray) -> float | None:
    """Returns the two-sided p of the signed-rank test; 1 if all units are equal, None if there is none."""
    from scipy.stats import wilcoxon as test

    if not len(gain):
        return None
    if not gain.any():
        return 1.0
    # Ranks only: an infinite difference is larger than every finite one.
    finite = np.abs(gain[np.isfinite(gain)])
    largest = finite.max() if len(finite) else 0.0
    return float(test(np.where(np.isinf(gain), np.sign(gain) * (2 * largest + 1), gain)).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns the p-values after Holm's step-down correction (Holm 1979), by the same names."""
    corrected, running = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = running
    return {name: corrected[name] for name in p_values}
