"""A comparison as a document: the answer, a row for each method, figures, and the details folded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from nnunetv2_salstm.reporting.bench import QUANTITIES
from nnunetv2_salstm.reporting.comparison_figures import draw_curves, draw_differences, draw_forest, draw_scatter
from nnunetv2_salstm.reporting.document import (
    Block,
    Bullets,
    Document,
    Figure,
    Section,
    Warnings,
    made_with,
)
from nnunetv2_salstm.reporting.tables import MISSING, Table, best_cells, latex_table, p_value

COST = {
    "parameters": QUANTITIES["parameters"],
    "epoch_seconds": ("s / epoch", lambda value: f"{value:.3g}"),
    **{name: QUANTITIES[name] for name in ("training_step", "inference_tile", "peak_memory")},
}
QUESTIONS = {"networks": "these networks", "methods": "the methods"}


@dataclass(frozen=True)
class Metric:
    """What a metric is called, with its unit; how many decimal places its values have; and whether more is better."""

    title: str
    digits: int
    higher_is_better: bool

    def number(self, value: float | None, **left_out: int) -> str:
        """Returns a value for readers, and how many values have no part in it, such as infinite=3."""
        text = MISSING if pandas.isna(value) else f"{value:.{self.digits}f}"
        counts = ", ".join(f"{count:.0f} {what}" for what, count in left_out.items() if count)
        return f"{text} ({counts})" if counts else text

    def signed(self, value: float | None) -> str:
        """Returns a difference for readers."""
        return MISSING if pandas.isna(value) else f"{value:+.{self.digits}f}"

    def interval(self, low: float | None, high: float | None, between: str = " to ") -> str:
        """Returns an interval of differences for readers."""
        return MISSING if pandas.isna(low) else f"{self.signed(low)}{between}{self.signed(high)}"

    def intervals(self, frame: pandas.DataFrame, prefix: str = "") -> list[str]:
        """Returns the intervals from the columns low and high for readers."""
        return list(map(self.interval, frame[f"{prefix}low"], frame[f"{prefix}high"]))


@dataclass(frozen=True)
class Comparison:
    """What is shown of a comparison. Methods are named as readers call them, the baseline first.

    Attributes:
        title: what was compared.
        reference: folder of the references.
        endpoint: what the primary endpoint is called, and its metric.
        metrics: by the names in the tables.
        sentences: the answers.
        confounders, failures: what a reader must know before.
        tables: those of `evaluation.comparison.Comparison.tables`, and curves of `evaluation.runs.curves_table`.
        cost: by method and quantity of `COST`.
        notes: what the numbers mean.
        command, versions: that made it.
        examples: pictures of cases.
    """

    title: str
    reference: str
    endpoint: tuple[str, Metric]
    metrics: Mapping[str, Metric]
    sentences: Sequence[str]
    confounders: Sequence[str]
    failures: Sequence[str]
    tables: Mapping[str, pandas.DataFrame]
    cost: Mapping[str, Mapping[str, float]]
    notes: Sequence[str]
    command: str
    versions: Mapping[str, str]
    examples: Sequence[Figure]

    @property
    def baseline(self) -> str:
        """The method that others are compared with."""
        return str(self.tables["methods"]["method"].iloc[0])


def comparison_document(found: Comparison, everything: bool = False, figures: bool = True) -> Document:
    """Returns the document.

    Args:
        found: what is shown.
        everything: whether details are open, which a terminal shows then.
        figures: whether figures are drawn.
    """
    title, metric = found.endpoint
    tables = found.tables
    blocks: list[Block] = [
        Warnings("Not like for like, or left out", found.confounders),
        Warnings("Left out, as it could not be scored", found.failures),
        Bullets(found.sentences, highlight=True),
        _overview(found),
    ]
    if figures:
        side = "right" if metric.higher_is_better else "left"
        blocks += [
            Figure(
                svg=draw_forest(tables["methods"], f"{title}, difference from {found.baseline}"),
                caption="Differences with their 95 % intervals: over cases (these networks) and over trainings (the "
                "methods), where there are three or more.",
            ),
            Figure(
                svg=draw_differences(
                    tables["differences"], f"{metric.title} minus that of {found.baseline}; {side} is better"
                ),
                caption="Paired differences: a point for each case, a box for the quartiles, a line for the median.",
            ),
        ]
        if found.examples:
            blocks.append(Section("Most improved and most worsened cases", found.examples))
    details: dict[str, Sequence[Block]] = {
        "Both answers in numbers": [_answers(found)],
        "Means by label": [_means(found)],
        "Secondary: labels and metrics, networks only, corrected within each metric": _secondary(found),
        "Subgroups": _plain(tables["subgroups"], metric, 2),
        "Beside published scores (other software, part of no verdict)": _plain(tables["published"], metric),
        "Noise: one method trained twice (A/A)": _plain(tables["noise"], metric, 3),
        "Ranks over resamples": _ranks(tables["methods"]),
        "Trainings": [*_plain(tables["trainings"], metric, 3), *_plain(tables["runs"], metric, 6)],
        "Cost": _cost(found),
    }
    if figures:
        scatter = draw_scatter(tables["pairs"], title, found.baseline)
        more = [Figure(svg=scatter, caption="A point for each case; above the line the method's value is larger.")]
        if len(tables["curves"]):
            caption = "Thick: mean over folds and seeds; thin: each of them."
            more.append(Figure(svg=draw_curves(tables["curves"]), caption=caption))
        details["Cases against each other, and learning curves"] = more
    details["What the numbers mean"] = [Bullets(found.notes)]
    blocks += [Section(heading, own, not everything) for heading, own in details.items() if own]
    footer = [f"Reference: `{found.reference}`", *made_with(found.command, found.versions)]
    return Document(found.title, blocks, footer)


def comparison_latex(found: Comparison) -> str:
    """Returns the overview for a paper, for LaTeX's booktabs: the best in bold, marks explained in the caption."""
    title, metric = found.endpoint
    frame = found.tables["methods"]
    over = "seeds" if frame["seed_spread"].notna().all() else "cases"
    values, gaps = [], []
    for row in frame.to_dict("records"):
        spread = row["seed_spread" if over == "seeds" else "spread"]
        value = metric.number(row["mean"]) + ("" if pandas.isna(spread) else f" ± {metric.number(spread)}")
        value += f" ({row['infinite']:.0f} infinite)" if row["infinite"] else ""
        marks = {"*": row["networks_verdict"], "†": row["methods_verdict"]}
        values.append(value + "".join(mark for mark, verdict in marks.items() if verdict in ("better", "worse")))
        of_networks = pandas.isna(row["methods_low"])
        gap = row["difference" if of_networks else "methods_difference"]
        question = "networks" if of_networks else "methods"
        interval = metric.interval(row[f"{question}_low"], row[f"{question}_high"], ", ")
        gaps.append(metric.signed(gap) + ("" if interval == MISSING else f" [{interval}]"))
    shown = pandas.DataFrame({"method": frame["method"], title: values, "difference [95 % interval]": gaps})
    # A mean that leaves out infinite values is no better for it.
    numbers = pandas.DataFrame({title: frame["mean"].mask(frame["infinite"] > 0)})
    lower = [] if metric.higher_is_better else [title]
    for name, other in found.metrics.items():
        if name in frame:
            shown[other.title] = _numbers(frame, name, other)
            numbers[other.title] = frame[name].mask(frame[f"{name}_infinite"] > 0)
            lower += [] if other.higher_is_better else [other.title]
    best = best_cells(numbers, lower)
    caption = (
        f"{found.title}. Mean and standard deviation over {over}; difference from {found.baseline} with its 95 % "
        "interval, over trainings where there are three pairs or more, else over cases. Best in bold. * these trained "
        "networks differ over cases; † the methods differ over trainings (corrected resampled t test); both p < 0.05 "
        "after Holm's correction over the methods."
    )
    return latex_table(Table(shown, caption, bold=best), "tab:comparison")


def _overview(found: Comparison) -> Table:
    title, metric = found.endpoint
    frame = found.tables["methods"]
    shown: dict[str, Any] = {
        "method": frame["method"],
        title: [metric.number(mean, infinite=count) for mean, count in frame[["mean", "infinite"]].to_numpy()],
        "difference": frame["difference"].map(metric.signed),
        **{f"95 % interval, {question}": metric.intervals(frame, f"{question}_") for question in QUESTIONS},
    }
    shown |= {other.title: _numbers(frame, name, other) for name, other in found.metrics.items() if name in frame}
    return Table(pandas.DataFrame({**shown, **_costs(found, ("parameters", "epoch_seconds"))}))


def _numbers(frame: pandas.DataFrame, name: str, metric: Metric) -> list[str]:
    return [metric.number(mean, infinite=count) for mean, count in frame[[name, f"{name}_infinite"]].to_numpy()]


def _answers(found: Comparison) -> Table:
    """Returns a row for each method and question."""
    metric = found.endpoint[1]
    parts = []
    frame = found.tables["methods"].iloc[1:]
    for question, what in QUESTIONS.items():
        of_networks = question == "networks"
        shares = frame[f"{question}_false_claim"]
        columns = {
            "method": frame["method"],
            "question": what,
            "verdict": frame[f"{question}_verdict"],
            "difference": frame["difference" if of_networks else "methods_difference"].map(metric.signed),
            "95 % interval": metric.intervals(frame, f"{question}_"),
            "p": frame[f"{question}_p"].map(p_value),
            "p (Holm)": frame[f"{question}_p_holm"].map(p_value),
            "false claim": [None if pandas.isna(share) else f"{100 * share:.1f} %" for share in shares],
            "equivalence": frame[f"{question}_equivalence"],
            "pairs": frame[f"{question}_count"].map("{:.0f}".format),
            "wins / draws / losses": _counts(frame, "wins", "draws", "losses") if of_networks else None,
            "moved up / down": _counts(frame, "improved", "worsened") if of_networks else None,
        }
        parts.append(pandas.DataFrame(columns))
    return Table(pandas.concat(parts).sort_index(kind="stable"), text_columns=3)


def _means(found: Comparison) -> Table:
    rows = []
    for (method, label), of_label in found.tables["summary"].groupby(["method", "label"], sort=False):
        row = {"method": method, "label": label}
        for values in of_label.to_dict("records"):
            metric = found.metrics[values["metric"]]
            left_out = {what: values[what] for what in ("infinite", "undefined")}
            row[metric.title] = metric.number(values["mean"], **left_out)
        rows.append(row)
    return Table(pandas.DataFrame(rows), text_columns=2)


def _secondary(found: Comparison) -> list[Block]:
    parts = []
    frame = found.tables["secondary"]
    for name, own in frame.groupby("metric", sort=False) if len(frame) else ():
        metric = found.metrics[str(name)]
        columns = {
            "method": own["method"],
            "metric": metric.title,
            "label": own["label"],
            "difference": own["difference"].map(metric.signed),
            "95 % interval": metric.intervals(own),
            "p": own["p"].map(p_value),
            "p (Holm)": own["p_holm"].map(p_value),
            "wins / draws / losses": _counts(own, "wins", "draws", "losses"),
            "networks": own["verdict"],
        }
        parts.append(pandas.DataFrame(columns))
    return [Table(pandas.concat(parts), text_columns=3)] if parts else []


def _ranks(frame: pandas.DataFrame) -> list[Block]:
    if "rank" not in frame:
        return []
    shown = {
        "method": frame["method"],
        "rank": frame["rank"],
        "95 % of resamples": [f"{a} to {b}" for a, b in zip(frame["rank_low"], frame["rank_high"], strict=True)],
        "first in": [f"{100 * value:.1f} %" for value in frame["first"]],
    }
    return [Table(pandas.DataFrame(shown))]


def _cost(found: Comparison) -> list[Block]:
    known = _costs(found, COST)
    return [Table(pandas.DataFrame({"method": found.tables["methods"]["method"], **known}))] if known else []


def _costs(found: Comparison, quantities: Iterable[str]) -> dict[str, list[str | None]]:
    """Returns what each method costs, and the ratio to the baseline, of those quantities that are known."""
    shown = {}
    for quantity in quantities:
        title, text = COST[quantity]
        values = [found.cost.get(method, {}).get(quantity) for method in found.tables["methods"]["method"]]
        first, *others = (None if value is None else text(value) for value in values)
        ratios = [f" (x {value / values[0]:.2f})" if value and values[0] else "" for value in values[1:]]
        if any(value is not None for value in values):
            shown[title] = [first, *(cell and cell + ratio for cell, ratio in zip(others, ratios, strict=True))]
    return shown


def _plain(frame: pandas.DataFrame, metric: Metric, text_columns: int = 1) -> list[Block]:
    """Returns a table of the frame as it is, with values and differences written as the metric's; none if empty."""
    if frame.empty:
        return []
    shown = frame.drop(columns=["low", "high"], errors="ignore")
    texts = {"difference": metric.signed, "mean": metric.number, "published": metric.number, "p_holm": p_value}
    for name in shown.columns.intersection(list(texts)):
        shown[name] = frame[name].map(texts[name])
    if "low" in frame:
        shown.insert(list(shown.columns).index("difference") + 1, "95 % interval", metric.intervals(frame))
    return [Table(shown.rename(columns={"p_holm": "p (Holm)"}), text_columns=text_columns)]


def _counts(frame: pandas.DataFrame, *names: str) -> list[str]:
    return [" / ".join(f"{count:.0f}" for count in counts) for counts in frame[list(names)].to_numpy()]
