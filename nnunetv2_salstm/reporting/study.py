"""A study as a document: what a reader must know first, verdicts, scores, hours, and where the comparisons are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from nnunetv2_salstm.reporting.comparison_figures import draw_forest
from nnunetv2_salstm.reporting.document import Block, Bullets, Code, Document, Figure, Section, Table, Text, Warnings

# Titles and decimal places.
METRICS = {"dice": ("Dice", 4), "hd95": ("HD95", 2), "nsd": ("Surface Dice", 4)}
LOWER_IS_BETTER = ("hd95",)
# What they are called, and their columns.
QUESTIONS = (("these networks", "networks", "difference"), ("the methods", "methods", "methods_difference"))


@dataclass(frozen=True)
class StudyReport:
    """The numbers of a study. Methods are named as readers call them, the baseline first.

    Attributes:
        title: what was compared.
        introduction: what was trained, and what is compared where.
        missing, confounders, failures: what a reader must know before believing the rest.
        methods: their names.
        scores, verdicts, secondary, hours: see `evaluation.study`.
        trainings: how many each method has.
        unit: what hours are of.
        devices: a sentence on what was trained on, "" where it is not known.
        places: a sentence for each comparison, with a link to its page.
        notes: what the numbers mean.
        file, text: the study file.
        versions: of the packages that compared.
    """

    title: str
    introduction: str
    missing: Sequence[str]
    confounders: Sequence[str]
    failures: Sequence[str]
    methods: Sequence[str]
    scores: pandas.DataFrame
    verdicts: pandas.DataFrame
    secondary: pandas.DataFrame
    hours: pandas.DataFrame
    trainings: Mapping[str, int]
    unit: str
    devices: str
    places: Sequence[str]
    notes: Sequence[str]
    file: str
    text: str
    versions: Sequence[str]

    @property
    def baseline(self) -> str:
        """The method that others are compared with."""
        return self.methods[0]


def study_document(found: StudyReport) -> Document:
    """Returns the document."""
    blocks: list[Block] = [
        Text(found.introduction),
        Warnings("Not complete, these comparisons are missing", found.missing),
        Warnings("Not like for like", found.confounders),
        Warnings("Left out, as it could not be scored", found.failures),
        Bullets(sentences(found), highlight=True),
    ]
    for metric, (title, _) in METRICS.items():
        if (found.scores["metric"] == metric).any():
            blocks.append(Section(title, _metric(found, metric)))
    if found.hours["total"].sum():
        hours = [Text(found.devices)] if found.devices else []
        blocks.append(Section(found.unit[0].upper() + found.unit[1:], [_hours(found), *hours]))
    blocks += [
        Section("The comparisons", [Bullets(found.places)]),
        Section("What the numbers mean", [Bullets(found.notes)]),
        Section("The study file", [Text(f"`{found.file}`"), Code(found.text)], folded=True),
        Section("Versions", [Bullets(found.versions)], folded=True),
    ]
    return Document(found.title, blocks)


def sentences(found: StudyReport) -> list[str]:
    """Returns what was found of each method: how often which answer, and where."""
    said = []
    for method in found.methods[1:]:
        own = found.verdicts[found.verdicts["method"] == method]
        answers = [f"{what} {_counted(own, f'{question}_verdict', gap)}" for what, question, gap in QUESTIONS]
        said.append(f"**{method}** against {found.baseline} in Dice: {'; '.join(answers)}.")
    return said


def _counted(own: pandas.DataFrame, verdict: str, gap: str) -> str:
    parts = []
    for name in own[verdict].drop_duplicates():
        rows = own[own[verdict] == name].to_dict("records")
        where = "; ".join(f"{row['place']} {_sign(row[gap], 4)}" for row in rows)
        parts.append(f"{name} in {len(rows)} of {len(own)} ({where})")
    return ", ".join(parts)


def _metric(found: StudyReport, metric: str) -> list[Block]:
    digits = METRICS[metric][1]
    scores = found.scores[found.scores["metric"] == metric]
    shown: dict[str, list[str | None]] = {"method": list(found.methods)}
    bold = set()
    for place, own in scores.groupby("place", sort=False):
        rows = own.set_index("method")
        shown[str(place)] = [_spread(rows.loc[name], digits) if name in rows.index else None for name in found.methods]
        # A mean that leaves out infinite distances is no better for it.
        order = [True, metric in LOWER_IS_BETTER]
        ranked = rows.dropna(subset="mean").sort_values(["infinite", "mean"], ascending=order)
        if len(ranked):
            first = ranked.iloc[0]
            best = ranked[(ranked["infinite"] == first["infinite"]) & (ranked["mean"] == first["mean"])].index
            bold |= {(found.methods.index(name), str(place)) for name in best}
    caption = "Mean (standard deviation over seeds / over folds); bold: the best mean."
    blocks: list[Block] = [Table(pandas.DataFrame(shown), caption, bold=bold)]
    if metric == "dice":
        axis = f"Dice, difference from {found.baseline}"
        figure = draw_forest(_forest(found), axis)
        blocks.append(
            Figure(
                svg=figure,
                caption="Differences with their 95 % intervals: over cases (these networks) and over trainings (the "
                "methods), where there are three or more.",
            )
        )
        blocks.append(_answers(found))
    elif (found.secondary["metric"] == metric).any():
        blocks.append(_differences(found.secondary[found.secondary["metric"] == metric], digits))
    return blocks


def _forest(found: StudyReport) -> pandas.DataFrame:
    """Returns the rows of the figure: methods within places, below one for the baseline, which is not drawn."""
    named = found.verdicts["place"] + ", " + found.verdicts["method"]
    first = pandas.DataFrame({"method": [found.baseline]})
    return pandas.concat([first, found.verdicts.assign(method=named)], ignore_index=True)


def _answers(found: StudyReport) -> Table:
    rows = []
    for row in found.verdicts.to_dict("records"):
        for what, question, gap in QUESTIONS:
            rows.append({
                "place": row["place"],
                "method": row["method"],
                "question": what,
                "verdict": row[f"{question}_verdict"],
                "difference": _sign(row[gap], 4),
                "95 % interval": _interval(row[f"{question}_low"], row[f"{question}_high"], 4),
                "p": _p(row[f"{question}_p"]),
                "p (Holm)": _p(row[f"{question}_p_holm"]),
                "pairs": f"{row[f'{question}_count']:.0f}",
            })  # fmt: skip
    return Table(pandas.DataFrame(rows), f"Differences from {found.baseline}, paired.", text_columns=4)


def _differences(secondary: pandas.DataFrame, digits: int) -> Table:
    rows = [
        {
            "place": row["place"],
            "method": row["method"],
            "difference": _sign(row["difference"], digits),
            "95 % interval": _interval(row["low"], row["high"], digits),
            "p (Holm)": _p(row["p_holm"]),
            "these networks": row["verdict"],
        }
        for row in secondary.to_dict("records")
    ]
    return Table(pandas.DataFrame(rows), "Differences, paired by case; networks only.", text_columns=2)


def _hours(found: StudyReport) -> Table:
    frame = found.hours
    data = [name for name in frame.columns if name not in ("method", "finished", "total", "repeated", "relative")]
    shown = {
        "method": frame["method"],
        "finished": [f"{row['finished']} of {found.trainings[row['method']]}" for row in frame.to_dict("records")],
        "in total": frame["total"].map(_number),
        "repeated": frame["repeated"].map(_number),
        "relative": ["-" if pandas.isna(value) else f"x {value:.2f}" for value in frame["relative"]],
        **{f"one of {name}": frame[name].map(_number) for name in data},
    }
    return Table(pandas.DataFrame(shown))


def _spread(row: Any, digits: int) -> str:
    if pandas.isna(row["mean"]):
        return "-"
    text = f"{row['mean']:.{digits}f}"
    spreads = [row["over_seeds"], row["over_folds"]]
    if any(pandas.notna(value) for value in spreads):
        text += f" ({' / '.join('-' if pandas.isna(value) else f'{value:.{digits}f}' for value in spreads)})"
    counts = [(row["infinite"], "infinite"), (row["undefined"], "undefined")]
    return ", ".join([text, *(f"{count} {what}" for count, what in counts if count)])


def _sign(value: Any, digits: int) -> str:
    return "-" if pandas.isna(value) else f"{value:+.{digits}f}"


def _interval(low: Any, high: Any, digits: int) -> str:
    return "-" if pandas.isna(low) else f"{_sign(low, digits)} to {_sign(high, digits)}"


def _p(value: Any) -> str:
    return "-" if pandas.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _number(value: Any) -> str:
    if pandas.isna(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
