"""What a comparison found, and how it is written: Markdown, JSON, CSV."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_salstm.evaluation.cost import MEASURED
from nnunetv2_salstm.evaluation.metrics import METRICS
from nnunetv2_salstm.evaluation.results import MEAN, Results
from nnunetv2_salstm.evaluation.statistics import CONFIDENCE, RESAMPLES
from nnunetv2_salstm.reporting.bench import QUANTITIES
from nnunetv2_salstm.tables import markdown_list, markdown_table

FORMAT = 1
COST = {
    "parameters": QUANTITIES["parameters"],
    "epoch_seconds": ("s / epoch", lambda value: f"{value:.3g}"),
    **{name: QUANTITIES[name] for name in MEASURED},
}


@dataclass(frozen=True)
class Report:
    """Results, what they cost, and what a reader has to know before believing them.

    Attributes:
        title: what was compared.
        inputs: folders, labels and tolerances, and the command.
        unlike: sentences on what else than the network differs between the arms.
        cost: by arm and quantity of `COST`.
        failures: predictions that could not be scored, with the reason.
        versions: of the packages.
    """

    title: str
    inputs: dict[str, Any]
    results: Results
    unlike: list[str]
    cost: dict[str, dict[str, float]]
    failures: list[str]
    versions: dict[str, str]

    @property
    def main_label(self) -> str:
        """The label whose Dice the verdict is about: the mean where there are several."""
        return self.results.all_labels[0]

    def verdicts(self) -> list[str]:
        """Returns a sentence for each arm against the baseline."""
        results = self.results
        short, baseline = results.short, results.short[results.baseline]
        sentences = []
        for arm in results.arms[1:]:
            found = results.comparisons[arm.name, self.main_label, "dice"]
            if found.mean_difference is None:
                sentences.append(f"{short[arm.name]} cannot be compared with {baseline}: no case has a Dice in both.")
                continue
            ours, theirs = (results.summary(a, self.main_label, "dice").mean for a in (arm.name, results.baseline))
            verdict = found.verdict()
            says = f"{verdict} than" if verdict in ("better", "worse") else f"{verdict} against"
            units = "groups of cases" if results.groups else "cases"
            of = " (mean over labels)" if self.main_label == MEAN else ""
            sentences.append(
                f"{short[arm.name]}: {says} {baseline} in Dice{of}. "
                f"{ours:.4f} and {theirs:.4f}, difference {found.mean_difference:+.4f} ({CONFIDENCE:.0%} interval "
                f"{found.low:+.4f} to {found.high:+.4f}), p = {p_value(found.p_holm)} after Holm's correction; "
                f"{found.wins} wins, {found.draws} draws, {found.losses} losses in {found.units} {units}."
            )
        return sentences

    def score_rows(self) -> list[list[str]]:
        """Returns the table of means, its head first."""
        rows = [["arm", "label", *(titled(name) for name in METRICS)]]
        for arm in self.results.arms:
            for label in self.results.all_labels:
                rows.append(
                    [self.results.short[arm.name], label, *(self._mean(arm.name, label, name) for name in METRICS)]
                )
        return rows

    def _mean(self, arm: str, label: str, metric: str) -> str:
        summary = self.results.summary(arm, label, metric)
        text = "-" if summary.mean is None else number(metric, summary.mean)
        counts = [(summary.infinite, "infinite"), (summary.undefined, "undefined")]
        extra = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"{text} ({extra})" if extra else text

    def comparison_rows(self) -> list[list[str]]:
        """Returns the table of differences from the baseline, its head first."""
        head = ["arm", "label", "metric", "difference", f"{CONFIDENCE:.0%} interval", "p", "p (Holm)"]
        rows = [[*head, "wins / draws / losses", "verdict"]]
        for (arm, label, metric), found in self.results.comparisons.items():
            rows.append([
                self.results.short[arm],
                label,
                METRICS[metric].title,
                signed(metric, found.mean_difference),
                "-" if found.low is None else f"{signed(metric, found.low)} to {signed(metric, found.high)}",
                p_value(found.p),
                p_value(found.p_holm),
                f"{found.wins} / {found.draws} / {found.losses}",
                found.verdict(),
            ])  # fmt: skip
        return rows

    def cost_rows(self) -> list[list[str]]:
        """Returns the table of costs, its head first; only a head where nothing is known."""
        known = [name for name in COST if any(name in values for values in self.cost.values())]
        rows = [["arm", *(COST[name][0] for name in known)]]
        baseline = self.cost.get(self.results.baseline, {})
        for arm, values in self.cost.items() if known else ():
            cells = []
            for name in known:
                text = COST[name][1](values[name]) if name in values else "-"
                if name in values and baseline.get(name) and arm != self.results.baseline:
                    text += f" (x {values[name] / baseline[name]:.2f})"
                cells.append(text)
            rows.append([self.results.short[arm], *cells])
        return rows

    def spread_rows(self) -> list[list[str]]:
        """Returns the Dice of each run and the differences within each fold, below their head."""
        rows = [["arm", "what", "Dice"]]
        short = self.results.short
        for arm in self.results.arms:
            runs = self.results.means_by_run(arm.name, self.main_label, "dice")
            if len(runs) > 1:
                rows += [[short[arm.name], f"mean of {run}", f"{value:.4f}"] for run, value in runs.items()]
        for arm in self.results.arms[1:]:
            folds = self.results.differences_by_fold(arm.name, self.main_label, "dice")
            if len(folds) > 1:
                rows += [[short[arm.name], f"difference in fold {fold}", f"{gap:+.4f}"] for fold, gap in folds.items()]
        return rows

    def notes(self) -> list[str]:
        """Returns what the numbers mean."""
        tolerances = ", ".join(f"{name} {value:g} mm" for name, value in self.inputs["tolerances"].items())
        short = self.results.short
        runs = [f"{short[arm.name]} is {', '.join(run.name for run in arm.runs)}" for arm in self.results.arms]
        notes = [
            f"{'; '.join(runs)}.",
            "Means are over cases (over the runs of a case first). Both masks empty: undefined, left out and counted. "
            "One empty: Dice, IoU and NSD 0, HD95 infinite, counted and left out of means, ranked worst in the test.",
            "HD95: 95th percentile of surface distances, the larger of both directions. NSD: normalised surface Dice "
            f"within {tolerances}. Volume error: |prediction - reference| / reference.",
            f"Difference: arm minus {short[self.results.baseline]}, paired. Interval: percentile bootstrap of the mean "
            f"difference, {RESAMPLES:,} resamples. p: Wilcoxon signed-rank, two-sided; Holm's correction is over all "
            "rows of the table.",
        ]
        if self.results.groups:
            notes.append("Cases were averaged within their groups, which are the units of the statistics.")
        return notes

    def to_markdown(self) -> str:
        """Returns the report for a terminal and for readers."""
        parts = [f"# {self.title}"]
        if self.unlike:
            parts += ["**Not like for like:**", markdown_list(self.unlike)]
        if self.failures:
            parts += ["**Left out, as it could not be scored:**", markdown_list(self.failures)]
        parts += [markdown_list(self.verdicts()), markdown_table(self.score_rows(), text_columns=2)]
        parts.append(markdown_table(self.comparison_rows(), text_columns=3))
        parts += [
            markdown_table(rows, text_columns=columns)
            for rows, columns in ((self.spread_rows(), 2), (self.cost_rows(), 1))
            if len(rows) > 1
        ]
        return "\n\n".join([*parts, markdown_list(self.notes())]) + "\n"

    def to_json(self) -> str:
        """Returns everything, for programs; infinite values are null and named next to it."""
        results = self.results
        values = {
            "format": FORMAT,
            "title": self.title,
            "inputs": self.inputs,
            "baseline": results.baseline,
            "arms": {arm.name: [run.name for run in arm.runs] for arm in results.arms},
            "verdicts": self.verdicts(),
            "not_like_for_like": self.unlike,
            "failures": self.failures,
            "summary": {
                arm.name: {
                    label: {metric: asdict(results.summary(arm.name, label, metric)) for metric in METRICS}
                    for label in results.all_labels
                }
                for arm in results.arms
            },
            "comparisons": [
                {"arm": arm, "label": label, "metric": metric, **asdict(found), "verdict": found.verdict()}
                for (arm, label, metric), found in results.comparisons.items()
            ],
            "cost": self.cost,
            "cases": [
                {
                    "arm": case.arm,
                    "run": case.run,
                    "fold": case.fold,
                    "case": case.case,
                    "group": results.groups.get(case.case),
                    "labels": {label: _json_scores(asdict(scores)) for label, scores in case.scores.items()},
                }
                for case in results.cases
            ],
            "versions": self.versions,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Returns a row for each run, case and label; infinite values are inf, undefined ones empty."""
        text = io.StringIO()
        counts = ("reference_voxels", "predicted_voxels")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["arm", "run", "fold", "case", "group", "label", *METRICS, *counts])
        for case in self.results.cases:
            for label, scores in case.scores.items():
                values = [getattr(scores, name) for name in (*METRICS, *counts)]
                fold = "" if case.fold is None else case.fold
                group = self.results.groups.get(case.case, "")
                writer.writerow([case.arm, case.run, fold, case.case, group, label, *values])
        return text.getvalue()


def _json_scores(values: dict[str, Any]) -> dict[str, Any]:
    infinite = [name for name in METRICS if values[name] is not None and math.isinf(values[name])]
    known = {name: None if name in infinite else value for name, value in values.items()}
    return {**known, "infinite": infinite, "undefined": values["dice"] is None}


def titled(metric: str) -> str:
    """Returns what a metric is called, with its unit."""
    unit = METRICS[metric].unit
    return f"{METRICS[metric].title} ({unit})" if unit else METRICS[metric].title


def number(metric: str, value: float) -> str:
    """Returns a metric's value."""
    return f"{value:.2f}" if METRICS[metric].unit else f"{value:.4f}"


def signed(metric: str, value: float | None) -> str:
    """Returns a difference in a metric, with its sign."""
    if value is None:
        return "-"
    return f"{value:+.2f}" if METRICS[metric].unit else f"{value:+.4f}"


def p_value(value: float | None) -> str:
    """Returns a p-value."""
    if value is None:
        return "-"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
