"""The scores of all methods as one table, and what follows from it."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from nnunetv2_salstm.evaluation.answers import BETTER, NOISE, NOT_SHOWN, WORSE, Verdicts
from nnunetv2_salstm.evaluation.metrics import METRICS, Scores
from nnunetv2_salstm.evaluation.runs import short_names
from nnunetv2_salstm.evaluation.statistics import ALPHA, count_pairs, differences, estimate, holm
from nnunetv2_salstm.evaluation.verdicts import FIVE_FOLDS, MARGIN, compare_methods

# The label that stands for the mean over all labels.
MEAN = "mean"
TRAINING = ["method", "seed", "fold"]
KEYS = [*TRAINING, "case", "group", "label"]
VOXELS = ("reference_voxels", "predicted_voxels")


@dataclass(frozen=True)
class ScoredCase:
    """A case as a training predicted it; seed and fold are "" where there is none."""

    method: str
    seed: str
    fold: str
    case: str
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Endpoint:
    """What is compared first, and what counts as equal.

    Attributes:
        metric, label: which values; the label "mean" is the mean over all.
        margin: differences within are equivalent.
    """

    metric: str = "dice"
    label: str = MEAN
    margin: float = MARGIN

    @property
    def title(self) -> str:
        """What sentences call it."""
        title = METRICS[self.metric].title
        return f"mean {title}" if self.label == MEAN else f"{title} of {self.label}"


@dataclass(frozen=True)
class Results:
    """The scores of all trainings.

    Attributes:
        table: a row for each score: method, seed, fold, case, group, label, metric, value. Infinite values are inf,
            undefined ones nan; of volume errors the magnitude. The label "mean" is the mean over the labels that are
            defined. Groups are "" where cases stand for themselves.
        methods: their names, the baseline first.
        labels: names of the labels that were scored.
        metrics: names of the metrics that were scored.
        same_as_baseline: methods that are the baseline trained again.
        overlap: n_test / n_train of the trainings.
    """

    table: pd.DataFrame
    methods: list[str]
    labels: list[str]
    metrics: list[str]
    same_as_baseline: list[str] = field(default_factory=list)
    overlap: float = FIVE_FOLDS

    @property
    def baseline(self) -> str:
        """Name of the method that others are compared with."""
        return self.methods[0]

    @cached_property
    def short(self) -> dict[str, str]:
        """What methods are called in tables and figures, by name."""
        return short_names(self.methods)

    @property
    def all_labels(self) -> list[str]:
        """The mean over labels, where there are several, and each label."""
        return [MEAN, *self.labels] if len(self.labels) > 1 else self.labels

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each case, {} where cases stand for themselves."""
        once = self.table.drop_duplicates("case")
        groups = dict(zip(once["case"].astype(str), once["group"].astype(str), strict=True))
        return groups if any(groups.values()) else {}

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return int(self.table["case"].nunique())

    @cached_property
    def by_case(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Values by label and metric, means over the trainings: a column for each method; rows by case and group."""
        shown = self.table[self.table["metric"].isin(METRICS)]
        keys = ["label", "metric", "case", "group", "method"]
        means = shown.groupby(keys)["value"].mean().unstack("method")
        levels: list[Hashable] = ["label", "metric"]
        found = means.groupby(level=levels)
        return {(str(label), str(metric)): frame.droplevel(levels) for (label, metric), frame in found}

    def values(self, label: str, metric: str) -> pd.DataFrame:
        """Returns the values of all trainings: method, seed, fold, case, value."""
        chosen = (self.table["label"] == label) & (self.table["metric"] == metric)
        return self.table.loc[chosen, [*TRAINING, "case", "value"]]

    def pairs(
        self, method: str, label: str, metric: str, cases: Collection[str] | None = None, by_unit: bool = False
    ) -> pd.DataFrame:
        """Returns the columns ours and theirs by case, or by unit, for the cases in which both are defined.

        Args:
            method: whose values are ours.
            label, metric: which values.
            cases: which, all by default.
            by_unit: means over the cases of each group, where there are groups.
        """
        values = self.by_case[label, metric]
        both = pd.DataFrame({"ours": values[method], "theirs": values[self.baseline]}).dropna()
        if cases is not None:
            both = both[both.index.get_level_values("case").isin(list(cases))]
        if by_unit and self.groups:
            return both.groupby("group").mean()
        return both.droplevel("group")

    def verdicts(self, endpoint: Endpoint) -> Verdicts:
        """Returns both answers about every method in the primary endpoint."""
        metric = METRICS[endpoint.metric]
        return compare_methods(
            self.values(endpoint.label, endpoint.metric),
            baseline=self.baseline,
            groups=self.groups or None,
            margin=endpoint.margin,
            higher_is_better=metric.best > 0,
            overlap=self.overlap,
            same_as_baseline=self.same_as_baseline,
            names=self.short,
            endpoint=endpoint.title,
            digits=2 if metric.unit else 4,
        )

    def summary(self) -> pd.DataFrame:
        """Returns mean and spread over the finite cases, and how many are finite, infinite and undefined."""
        rows = []
        for method in self.methods:
            for label in self.all_labels:
                for metric in self.metrics:
                    values = self.by_case[label, metric][method]
                    known = values[np.isfinite(values)]
                    rows.append({
                        "method": method,
                        "label": label,
                        "metric": metric,
                        "mean": known.mean(),
                        "spread": known.std(),
                        "finite": len(known),
                        "infinite": int(np.isinf(values).sum()),
                        "undefined": int(values.isna().sum()),
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def secondary(self, endpoint: Endpoint) -> pd.DataFrame:
        """Returns every label and metric but the primary endpoint: networks over units, corrected within the metric."""
        rows = [
            {"method": method, "label": label, "metric": metric, **self._row(method, label, metric)}
            for metric in self.metrics
            for method in self.methods[1:]
            for label in self.all_labels
            if (metric, label) != (endpoint.metric, endpoint.label)
        ]
        return self._corrected(rows, "metric")

    def _row(self, method: str, label: str, metric: str, cases: Collection[str] | None = None) -> dict[str, object]:
        pairs = self.pairs(method, label, metric, cases, by_unit=True)
        ours, theirs = pairs["ours"].to_numpy(), pairs["theirs"].to_numpy()
        higher = METRICS[metric].best > 0
        return {**asdict(estimate(ours, theirs, higher)), **asdict(count_pairs(differences(ours, theirs), higher))}

    def trainings(self, endpoint: Endpoint) -> pd.DataFrame:
        """Returns the mean of the primary endpoint over the finite cases of each training, and their number."""
        grouped = finite(self.values(endpoint.label, endpoint.metric)).groupby(TRAINING, sort=False)["value"]
        return grouped.agg(mean="mean", cases="count").reset_index()

    def subgroups(self, endpoint: Endpoint, members: Mapping[str, str]) -> pd.DataFrame:
        """Returns the networks' difference within each subgroup of cases, corrected over all of them.

        Args:
            endpoint: the primary one.
            members: the subgroup of each case.
        """
        rows = []
        for method in self.methods[1:]:
            for subgroup in sorted(set(members.values())):
                cases = [case for case, name in members.items() if name == subgroup]
                found = self._row(method, endpoint.label, endpoint.metric, cases)
                rows.append({"method": method, "subgroup": subgroup, **found})
        return self._corrected(rows)

    def _corrected(self, rows: list[dict[str, object]], within: str | None = None) -> pd.DataFrame:
        """Adds p after Holm's correction and the verdict about the networks; A/A pairs are noise, without either."""
        frame = pd.DataFrame(rows)
        if frame.empty:
            return frame
        noise = frame["method"].isin(self.same_as_baseline)
        p = frame["p"].astype(float).mask(noise)
        families = frame[within] if within else pd.Series("", frame.index)
        for _, family in p.dropna().groupby(families):
            p.update(pd.Series(holm(family.to_dict())))
        shown = (p < ALPHA) & (frame["towards"] != 0)
        verdict = np.where(shown, np.where(frame["towards"] > 0, BETTER, WORSE), np.where(noise, NOISE, NOT_SHOWN))
        return frame.assign(p_holm=p, verdict=verdict)

    def beside_published(self, published: Mapping[str, float]) -> pd.DataFrame:
        """Returns every method's mean Dice beside somebody else's on the cases that both have."""
        rows = []
        for method in self.methods:
            ours = self.by_case[self.all_labels[0], "dice"][method].droplevel("group").dropna()
            ours = ours[ours.index.isin(list(published))]
            theirs = np.array([published[case] for case in ours.index])
            found = estimate(ours.to_numpy(), theirs)
            gap = {"difference": found.difference, "low": found.low, "high": found.high}
            means = {"mean": ours.mean(), "published": theirs.mean()}
            rows.append({"method": method, "cases": len(ours), **means, **gap})
        return pd.DataFrame(rows)


def results_table(cases: Iterable[ScoredCase], groups: Mapping[str, str], metrics: Sequence[str]) -> pd.DataFrame:
    """Returns the table of `Results` from scored cases, in their order.

    Args:
        cases: as they were scored.
        groups: the group of each case, {} where cases stand for themselves.
        metrics: which are kept.
    """
    columns = [*metrics, *VOXELS]
    rows: list[list[object]] = []
    for case in cases:
        for label, scores in case.scores.items():
            values = (getattr(scores, name) for name in columns)
            rows.append([case.method, case.seed, case.fold, case.case, groups.get(case.case, ""), label, *values])
    wide = pd.DataFrame(rows, columns=[*KEYS, *columns])
    return long_table(wide)


def long_table(wide: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each score, of labels and then of their means, from a table with a column for each metric."""
    columns = [name for name in wide.columns if name not in KEYS]
    wide = wide.astype(dict.fromkeys(columns, float))
    if "volume_error" in columns:
        wide["volume_error"] = wide["volume_error"].abs()  # errors of both signs must not cancel in means
    table = wide.melt(KEYS, columns, var_name="metric", value_name="value")
    if wide["label"].nunique() > 1:
        metrics = [name for name in columns if name not in VOXELS]
        means = wide.groupby([*TRAINING, "case", "group"], sort=False)[metrics].mean().reset_index()
        means.insert(len(KEYS) - 1, "label", MEAN)
        table = pd.concat([table, means.melt(KEYS, metrics, var_name="metric", value_name="value")], ignore_index=True)
    return table


def wide_table(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a column for each metric, without the means over the labels."""
    of_labels = table if table["label"].nunique() == 1 else table[table["label"] != MEAN]
    metrics = list(dict.fromkeys(of_labels["metric"]))
    wide = of_labels.pivot(index=KEYS, columns="metric", values="value")[metrics]
    # Pivoting sorts.
    order = pd.MultiIndex.from_frame(of_labels.loc[of_labels["metric"] == metrics[0], KEYS])
    return wide.loc[order].rename_axis(columns=None).reset_index()


def finite(values: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows whose value is neither infinite nor undefined."""
    found: pd.DataFrame = values[np.isfinite(values["value"])]
    return found
