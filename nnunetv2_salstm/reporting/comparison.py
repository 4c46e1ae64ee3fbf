"""A comparison as a document: the answer, a row for each method, figures, and the details folded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas

from nnunetv2_salstm.reporting.bench import QUANTITIES
from nnunetv2_salstm.reporting.comparison_figures import draw_curves, draw_differences, draw_forest, draw_scatter
from nnunetv2_salstm.reporting.document import (
    Block,
    Bullets,
    Document,
    Figure,
    Section,
    Table,
    Warnings,
    made_with,
)
from nnunetv2_salstm.reporting.overlays import Overlay, draw_overlays
from nnunetv2_salstm.reporting.tables import best_cells, latex_table

COST = {
    "parameters": QUANTITIES["parameters"],
    "epoch_seconds": ("s / epoch", lambda value: f"{value:.3g}"),
    **{name: QUANTITIES[name] for name in ("training_step", "inference_tile", "peak_memory")},
}


@dataclass(frozen=True)
class Metric:
    """What a metric is called, with its unit; how many decimal places its values have; and whether more is better."""

    title: str
    digits: int
    higher_is_better: bool


@dataclass(frozen=True)
class Example:
    """A case as it is shown: caption, alternative text, slices side by side, labels in the order of their colours."""

    caption: str
    alt: str
    title: str
    slices: Sequence[Overlay]
    labels: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """The numbers of a comparison. Methods are named as readers call them, the baseline first.

    Attributes:
        title: what was compared.
        reference: folder of the references.
        endpoint: what the primary endpoint is called, and its metric.
        metrics: by the names in the frames.
        sentences: the answers.
        confounders, failures: what a reader must know before.
        methods: a row each: method, mean, spread over cases, seed_spread, difference, methods_difference; of both
            questions (networks_, methods_) verdict, low, high, p, p_holm, equivalence, false_claim, count; wins, draws,
            losses, improved, worsened; of three methods or more rank, rank_low, rank_high, first; and of secondary
            metrics their means.
        cost: by method and quantity of `COST`.
        summary: method, label, metric, mean, spread, finite, infinite, undefined.
        secondary: method, label, metric, difference, low, high, p, p_holm, wins, draws, losses, verdict.
        trainings: the mean of every training: method, seed, fold, mean, cases.
        runs: what is known of every training.
        noise: pairs of trainings of one method: method, first, second, difference, low, high.
        subgroups: method, subgroup, count, difference, low, high, p_holm.
        published: method, cases, mean, published, difference, low, high.
        differences: method, label, difference of every case in the endpoint's metric.
        pairs: method, ours, theirs of every case in the endpoint.
        curves: method, training, epoch, quantity, value.
        examples: cases to look at.
        notes: what the numbers mean.
        command, versions: that made it.
    """

    title: str
    reference: str
    endpoint: tuple[str, Metric]
    metrics: Mapping[str, Metric]
    sentences: Sequence[str]
    confounders: Sequence[str]
    failures: Sequence[str]
    methods: pandas.DataFrame
    cost: Mapping[str, Mapping[str, float]]
    summary: pandas.DataFrame
    secondary: pandas.DataFrame
    trainings: pandas.DataFrame
    runs: pandas.DataFrame
    noise: pandas.DataFrame
    subgroups: pandas.DataFrame
    published: pandas.DataFrame
    differences: pandas.DataFrame
    pairs: pandas.DataFrame
    curves: pandas.DataFrame
    notes: Sequence[str]
    command: str
    versions: Mapping[str, str]
    examples: Sequence[Example] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        """The method that others are compared with."""
        return str(self.methods["method"].iloc[0])


def comparison_document(found: Comparison, everything: bool = False, figures: bool = True) -> Document:
    """Returns the document.

    Args:
        found: the numbers.
        everything: whether details are open, which a terminal shows then.
        figures: whether figures are drawn.
    """
    title, metric = found.endpoint
    blocks: list[Block] = [
        Warnings("Not like for like", found.confounders),
        Warnings("Left out, as it could not be scored", found.failures),
        Bullets(found.sentences, highlight=True),
        overview_table(found),
    ]
    if figures:
        blocks += [
            Figure(
                svg=draw_forest(found.methods, f"{title}, difference from {found.baseline}"),
                caption="Differences with their 95 % intervals: over cases (these networks) and over trainings (the "
                "methods), where there are three or more.",
            ),
            Figure(
                svg=draw_differences(found.differences, _axis(metric, found.baseline)),
                caption="Paired differences: a point for each case, a box for the quartiles, a line for the median.",
            ),
        ]
        if found.examples:
            blocks.append(Section("Most improved and most worsened cases", [_picture(e) for e in found.examples]))
    details = [
        Section("Both answers in numbers", [_answers(found)], not everything),
        Section("Means by label", [_means(found)], not everything),
        Section(
            "Secondary: labels and metrics, networks only, corrected within each metric",
            [_secondary(found)] if len(found.secondary) else [],
            not everything,
        ),
        Section("Subgroups", _frame(found.subgroups, metric, 2), not everything),
        Section(
            "Beside published scores (other software, part of no verdict)",
            _frame(found.published, metric),
            not everything,
        ),
        Section("Noise: one method trained twice (A/A)", _frame(found.noise, metric, 3), not everything),
        Section("Ranks over resamples of cases and trainings", _ranks(found), not everything),
        Section("Trainings", [*_frame(found.trainings, metric, 3), *_frame(found.runs, metric, 6)], not everything),
        Section("Cost", _cost(found), not everything),
    ]
    blocks += [section for section in details if section.blocks]
    if figures:
        curves = draw_curves(found.curves)
        more = [
            Figure(
                svg=draw_scatter(found.pairs, title, found.baseline),
                caption="A point for each case; above the line the method's value is larger.",
            )
        ]
        if curves:
            more.append(Figure(svg=curves, caption="Thick: mean over folds and seeds; thin: each of them."))
        blocks.append(Section("Cases against each other, and learning curves", more, not everything))
    blocks.append(Section("What the numbers mean", [Bullets(found.notes)], not everything))
    footer = [f"Reference: `{found.reference}`", *made_with(found.command, found.versions)]
    return Document(found.title, blocks, footer)


def overview_table(found: Comparison) -> Table:
    """Returns a row for each method: mean, difference with both intervals, secondary means, cost."""
    title, metric = found.endpoint
    frame = found.methods
    shown = {"method": frame["method"], title: _number(frame["mean"], metric)}
    if len(frame) > 1:
        shown["difference"] = _signed(frame["difference"], metric)
        for question in ("networks", "methods"):
            shown[f"95 % interval, {question}"] = _intervals(frame, f"{question}_", metric)
    for name, other in found.metrics.items():
        if name in frame:
            shown[other.title] = _number(frame[name], other)
    for name in ("parameters", "epoch_seconds"):
        if any(name in values for values in found.cost.values()):
            shown[COST[name][0]] = _costs(found, name)
    return Table(pandas.DataFrame(shown))


def comparison_latex(found: Comparison) -> str:
    """Returns the overview for a paper, for LaTeX's booktabs: the best in bold, marks explained in the caption."""
    title, metric = found.endpoint
    frame = found.methods
    marks = [
        ("*" if row["networks_verdict"] in ("better", "worse") else "")
        + ("†" if row["methods_verdict"] in ("better", "worse") else "")
        for row in frame.to_dict("records")
    ]
    over = "seeds" if frame["seed_spread"].notna().all() else "cases"
    spread = frame["seed_spread"] if over == "seeds" else frame["spread"]
    values = [
        _one(mean, metric) if math.isnan(sd) else f"{_one(mean, metric)} ± {_one(sd, metric)}"
        for mean, sd in zip(frame["mean"], spread, strict=True)
    ]
    shown = pandas.DataFrame({
        "method": frame["method"],
        title: [f"{value}{mark}" for value, mark in zip(values, marks, strict=True)],
        "difference [95 % interval]": [
            None if math.isnan(row["difference"]) else _with_interval(row, metric) for row in frame.to_dict("records")
        ],
    })  # fmt: skip
    numbers = pandas.DataFrame({title: frame["mean"]})
    better = {True: [], False: []}  # type: dict[bool, list[str]]
    better[metric.higher_is_better].append(title)
    for name, other in found.metrics.items():
        if name in frame:
            shown[other.title] = _number(frame[name], other)
            numbers[other.title] = frame[name]
            better[other.higher_is_better].append(other.title)
    caption = (
        f"{found.title}. Mean and standard deviation over {over}; difference from {found.baseline} with its 95 % "
        "interval, over trainings where there are three pairs or more, else over cases. Best in bold. * these trained "
        "networks differ over cases; † the methods differ over trainings (corrected resampled t test); both p < 0.05 "
        "after Holm's correction over the methods."
    )
    return latex_table(Table(shown, caption, bold=best_cells(numbers, better[True], better[False])), "tab:comparison")


def _with_interval(row: Mapping[Any, Any], metric: Metric) -> str:
    question = "methods" if not pandas.isna(row["methods_low"]) else "networks"
    low, high = row[f"{question}_low"], row[f"{question}_high"]
    gap = row["methods_difference"] if question == "methods" else row["difference"]
    text = _sign(gap, metric)
    return text if pandas.isna(low) else f"{text} [{_sign(low, metric)}, {_sign(high, metric)}]"


def _answers(found: Comparison) -> Table:
    """Returns a row for each method and question."""
    metric = found.endpoint[1]
    rows = []
    for row in found.methods.iloc[1:].to_dict("records"):
        for question, what in (("networks", "these networks"), ("methods", "the methods")):
            of = {str(name).removeprefix(f"{question}_"): value for name, value in row.items()}
            gap = row["difference"] if question == "networks" else row["methods_difference"]
            rows.append({
                "method": row["method"],
                "question": what,
                "verdict": of["verdict"],
                "difference": _sign(gap, metric),
                "95 % interval": _interval(of["low"], of["high"], metric),
                "p": _p(of["p"]),
                "p (Holm)": _p(of["p_holm"]),
                "false claim": None if pandas.isna(of["false_claim"]) else f"{100 * of['false_claim']:.1f} %",
                "equivalence": of["equivalence"],
                "pairs": f"{of['count']:.0f}",
                "wins / draws / losses": _counts(row, "wins", "draws", "losses") if question == "networks" else None,
                "moved up / down": _counts(row, "improved", "worsened") if question == "networks" else None,
            })  # fmt: skip
    return Table(pandas.DataFrame(rows), text_columns=3)


def _means(found: Comparison) -> Table:
    frame = found.summary
    rows = []
    for (method, label), of_label in frame.groupby(["method", "label"], sort=False):
        row = {"method": method, "label": label}
        for values in of_label.to_dict("records"):
            metric = found.metrics[values["metric"]]
            text = "-" if math.isnan(values["mean"]) else _one(values["mean"], metric)
            counts = [(values["infinite"], "infinite"), (values["undefined"], "undefined")]
            extra = ", ".join(f"{count} {what}" for count, what in counts if count)
            row[metric.title] = f"{text} ({extra})" if extra else text
        rows.append(row)
    return Table(pandas.DataFrame(rows), text_columns=2)


def _secondary(found: Comparison) -> Table:
    rows = []
    for row in found.secondary.to_dict("records"):
        metric = found.metrics[row["metric"]]
        rows.append({
            "method": row["method"],
            "metric": metric.title,
            "label": row["label"],
            "difference": _sign(row["difference"], metric),
            "95 % interval": _interval(row["low"], row["high"], metric),
            "p": _p(row["p"]),
            "p (Holm)": _p(row["p_holm"]),
            "wins / draws / losses": f"{row['wins']} / {row['draws']} / {row['losses']}",
            "networks": row["verdict"],
        })  # fmt: skip
    return Table(pandas.DataFrame(rows), text_columns=3)


def _ranks(found: Comparison) -> list[Block]:
    frame = found.methods
    if "rank" not in frame:
        return []
    ends = zip(frame["rank_low"], frame["rank_high"], strict=True)
    shown = pandas.DataFrame({
        "method": frame["method"],
        "rank": [f"{value:.0f}" for value in frame["rank"]],
        "95 % of resamples": [f"{low:.0f} to {high:.0f}" for low, high in ends],
        "first in": [f"{100 * value:.1f} %" for value in frame["first"]],
    })  # fmt: skip
    return [Table(shown)]


def _cost(found: Comparison) -> list[Block]:
    known = [name for name in COST if any(name in values for values in found.cost.values())]
    if not known:
        return []
    shown = {"method": list(found.methods["method"]), **{COST[name][0]: _costs(found, name) for name in known}}
    return [Table(pandas.DataFrame(shown))]


def _costs(found: Comparison, quantity: str) -> list[str | None]:
    """Returns what each method costs, and the ratio to the baseline."""
    first = found.cost.get(found.baseline, {}).get(quantity)
    cells: list[str | None] = []
    for method in found.methods["method"]:
        value = found.cost.get(method, {}).get(quantity)
        text = None if value is None else COST[quantity][1](value)
        cells.append(f"{text} (x {value / first:.2f})" if value and first and method != found.baseline else text)
    return cells


def _frame(frame: pandas.DataFrame, metric: Metric, text_columns: int = 1) -> list[Block]:
    """Returns a table of the frame as it is, with values and differences written as the metric's."""
    if frame.empty:
        return []
    shown = frame.drop(columns=[name for name in ("low", "high") if name in frame])
    for name in shown.columns:
        if name == "difference":
            shown[name] = [_sign(value, metric) for value in frame[name]]
        elif name in ("mean", "published"):
            shown[name] = [_one(value, metric) for value in frame[name]]
        elif name in ("p", "p_holm"):
            shown[name] = [_p(value) for value in frame[name]]
    if "low" in frame:
        shown.insert(list(shown.columns).index("difference") + 1, "95 % interval", _intervals(frame, "", metric))
    return [Table(shown.rename(columns={"p_holm": "p (Holm)"}), text_columns=text_columns)]


def _picture(example: Example) -> Figure:
    return Figure(
        png=draw_overlays([example.slices], example.labels, example.title), caption=example.caption, alt=example.alt
    )


def _axis(metric: Metric, baseline: str) -> str:
    return f"{metric.title} minus that of {baseline}; {'right' if metric.higher_is_better else 'left'} is better"


def _number(values: Any, metric: Metric) -> list[str | None]:
    return [None if pandas.isna(value) else _one(value, metric) for value in values]


def _signed(values: Any, metric: Metric) -> list[str | None]:
    return [None if pandas.isna(value) else _sign(value, metric) for value in values]


def _intervals(frame: pandas.DataFrame, prefix: str, metric: Metric) -> list[str | None]:
    return [_interval(a, b, metric) for a, b in zip(frame[f"{prefix}low"], frame[f"{prefix}high"], strict=True)]


def _interval(low: float | None, high: float | None, metric: Metric) -> str | None:
    if low is None or high is None or np.isnan(low):
        return None
    return f"{_sign(low, metric)} to {_sign(high, metric)}"


def _one(value: float, metric: Metric) -> str:
    return f"{value:.{metric.digits}f}"


def _sign(value: float | None, metric: Metric) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:+.{metric.digits}f}"


def _counts(row: Mapping[Any, Any], *names: str) -> str:
    return " / ".join(f"{row[name]:.0f}" for name in names)


def _p(value: float | None) -> str:
    if value is None or np.isnan(value):
        return "-"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
