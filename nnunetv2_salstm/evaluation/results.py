"""The scores of all arms by case, and what they say about an arm against the baseline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from nnunetv2_salstm.evaluation.metrics import METRICS, Scores
from nnunetv2_salstm.evaluation.runs import Arm, short_names
from nnunetv2_salstm.evaluation.scoring import mean_over_labels
from nnunetv2_salstm.evaluation.statistics import Comparison, compare, holm

# The label that stands for the mean over all labels.
MEAN = "mean"


@dataclass(frozen=True)
class ScoredCase:
    """A case as a run predicted it."""

    arm: str
    run: str
    fold: int | str | None
    case: str
    scores: dict[str, Scores]

    def value(self, label: str, metric: str) -> float | None:
        """Returns a metric of a label or of their mean, None where it is undefined; of errors the magnitude."""
        if label == MEAN:
            return mean_over_labels(self.scores).get(metric)
        value = getattr(self.scores[label], metric)
        return value if value is None or metric != "volume_error" else abs(value)


@dataclass(frozen=True)
class Summary:
    """An arm's metric over cases: mean over the finite ones, and how many are finite, infinite and undefined."""

    mean: float | None
    finite: int
    infinite: int
    undefined: int


@dataclass(frozen=True)
class Results:
    """Scores of all runs, and the statistics of every arm against the first.

    Attributes:
        arms: the first is the baseline.
        labels: names of the labels that were scored.
        cases: every case as every run predicted it.
        groups: the patient or sequence of a case, by case; {} where each case stands for itself.
    """

    arms: list[Arm]
    labels: list[str]
    cases: list[ScoredCase]
    groups: Mapping[str, str]

    @property
    def baseline(self) -> str:
        """Name of the arm that others are compared with."""
        return self.arms[0].name

    @cached_property
    def short(self) -> dict[str, str]:
        """What arms are called in tables and figures, by name."""
        return short_names(self.arms)

    @property
    def all_labels(self) -> list[str]:
        """The mean over labels, where there are several, and each label."""
        return [MEAN, *self.labels] if len(self.labels) > 1 else self.labels

    def case_values(self, arm: str, label: str, metric: str, fold: int | str | None = None) -> dict[str, float]:
        """Returns the defined values of an arm by case, means over its runs; of one fold if it is given."""
        found: dict[str, list[float]] = {}
        for case in self.cases:
            value = case.value(label, metric) if case.arm == arm and fold in (None, case.fold) else None
            if value is not None:
                found.setdefault(case.case, []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in found.items()}

    def pairs(
        self, arm: str, label: str, metric: str, fold: int | str | None = None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the values of an arm and of the baseline by case, for cases in which both are defined."""
        ours, theirs = (self.case_values(name, label, metric, fold) for name in (arm, self.baseline))
        return {case: ours[case] for case in theirs if case in ours}, {c: theirs[c] for c in theirs if c in ours}

    def by_unit(self, values: Mapping[str, float]) -> list[float]:
        """Returns the values of cases by unit: means over the cases of a group, or the cases' own."""
        units: dict[str, list[float]] = {}
        for case, value in values.items():
            units.setdefault(self.groups.get(case, case), []).append(value)
        return [math.fsum(found) / len(found) for found in units.values()]

    def summary(self, arm: str, label: str, metric: str) -> Summary:
        """Returns an arm's metric over all cases."""
        values = self.case_values(arm, label, metric)
        finite = [value for value in values.values() if math.isfinite(value)]
        cases = {case.case for case in self.cases if case.arm == arm}
        return Summary(
            math.fsum(finite) / len(finite) if finite else None,
            len(finite),
            len(values) - len(finite),
            len(cases) - len(values),
        )

    @cached_property
    def comparisons(self) -> dict[tuple[str, str, str], Comparison]:
        """Every arm but the first against the first, by arm, label and metric, corrected over all of them."""
        found = {}
        for arm in self.arms[1:]:
            for label in self.all_labels:
                for name, metric in METRICS.items():
                    ours, theirs = map(self.by_unit, self.pairs(arm.name, label, name))
                    found[arm.name, label, name] = compare(ours, theirs, metric.best)
        tested = {"\n".join(key): result.p for key, result in found.items() if result.p is not None}
        corrected = holm(tested)
        return {key: replace(result, p_holm=corrected.get("\n".join(key))) for key, result in found.items()}

    def differences_by_fold(self, arm: str, label: str, metric: str) -> dict[str, float]:
        """Returns the mean difference from the baseline within each fold, over pairs that are finite."""
        folds = dict.fromkeys(case.fold for case in self.cases if case.fold is not None)
        found = {}
        for fold in folds:
            ours, theirs = self.pairs(arm, label, metric, fold)
            gaps = [gap for case in theirs if math.isfinite(gap := ours[case] - theirs[case])]
            if gaps:
                found[str(fold)] = math.fsum(gaps) / len(gaps)
        return found

    def means_by_fold(self, arm: str, label: str, metric: str) -> dict[str, float]:
        """Returns an arm's mean over finite cases within each fold."""
        folds = dict.fromkeys(case.fold for case in self.cases if case.fold is not None)
        found = {}
        for fold in folds:
            finite = [v for v in self.case_values(arm, label, metric, fold).values() if math.isfinite(v)]
            if finite:
                found[str(fold)] = math.fsum(finite) / len(finite)
        return found

    def means_by_run(self, arm: str, label: str, metric: str) -> dict[str, float]:
        """Returns the mean over finite cases for each run of an arm, its seeds."""
        found: dict[str, list[float]] = {}
        for case in self.cases:
            value = case.value(label, metric)
            if case.arm == arm and value is not None and math.isfinite(value):
                found.setdefault(case.run, []).append(value)
        return {run: math.fsum(values) / len(values) for run, values in found.items()}
