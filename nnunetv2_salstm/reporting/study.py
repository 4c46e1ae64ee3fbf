"""A study as a document: what a reader must know first, verdicts, scores, hours, and where the comparisons are."""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

import pandas

from nnunetv2_salstm.reporting.comparison import Metric
from nnunetv2_salstm.reporting.comparison_figures import draw_forest
from nnunetv2_salstm.reporting.document import Block, Bullets, Code, Document, Figure, Section, Text, Warnings
from nnunetv2_salstm.reporting.tables import MISSING, Table, p_value

DICE = Metric("Dice", 4, True)
METRICS = {"dice": DICE, "hd95": Metric("HD95", 2, False), "nsd": Metric("Surface Dice", 4, True)}
# What they are called, and their columns.
QUESTIONS = (("these networks", "networks", "difference"), ("the methods", "methods", "methods_difference"))


def study_document(facts: Mapping[str, Any], tables: Mapping[str, pandas.DataFrame]) -> Document:
    """Returns the page of a study.

    Args:
        facts: study, design, missing, methods, places, unit and notes, as report.json has them.
        tables: scores, verdicts, secondary and hours, as `evaluation.study` makes them.
    """
    labels = {name: method["label"] for name, method in facts["methods"].items()}
    methods, unit, places = list(labels.values()), facts["unit"], facts["places"]
    scores, verdicts, secondary, hours = (
        tables[name].replace({"method": labels}) for name in ("scores", "verdicts", "secondary", "hours")
    )
    blocks: list[Block] = [
        Text(_introduction(facts)),
        Warnings("Not complete, these comparisons are missing", _sentences(facts["missing"])),
        Warnings("Not like for like", _by_place(places, "confounders")),
        Warnings("Left out, as it could not be scored", _by_place(places, "failures")),
        Bullets([_answer(verdicts[verdicts["method"] == name], name, methods[0]) for name in methods[1:]], True),
    ]
    for name, metric in METRICS.items():
        own = scores[scores["metric"] == name]
        if own.empty:
            continue
        shown: list[Block] = [_means(own, methods, metric)]
        if metric == DICE:
            shown += [_forest(verdicts, methods[0]), _answers(verdicts, methods[0])]
        elif (secondary["metric"] == name).any():
            shown.append(_differences(secondary[secondary["metric"] == name], metric))
        blocks.append(Section(metric.title, shown))
    if hours["total"].sum():
        trainings = [method["trainings"] for method in facts["methods"].values()]
        devices = [Text(text)] if (text := _devices(facts["methods"].values())) else []
        blocks.append(Section(_capital(unit), [_hours(hours, trainings), *devices]))
    blocks += [
        Section("The comparisons", [Bullets([_link(place, found) for place, found in places.items()])]),
        Section("What the numbers mean", [Bullets(_notes(facts))]),
        Section("The study file", [Text(f"`{facts['study']['file']}`"), Code(facts["study"]["text"])], folded=True),
        Section("Versions", [Bullets(_versions(places))], folded=True),
    ]
    return Document(f"Study {facts['study']['name']}: {', '.join(methods[1:])} against {methods[0]}", blocks)


def _introduction(facts: Mapping[str, Any]) -> str:
    design = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in facts["design"].items())
    trainings = sum(method["trainings"] for method in facts["methods"].values())
    return (
        f"{design}; {trainings} trainings. Every method is compared with the first one in {len(facts['places'])} "
        "places: data and configuration, validation or test cases."
    )


def _sentences(reasons: Mapping[str, str]) -> list[str]:
    return [f"{place}: {reason}." for place, reason in reasons.items()]


def _by_place(places: Mapping[str, Any], kind: str) -> list[str]:
    """Returns each sentence of a kind once, with its places."""
    found: dict[str, list[str]] = {}
    for place, own in places.items():
        for sentence in own[kind]:
            found.setdefault(sentence, []).append(place)
    every = len(places)
    return [f"{'everywhere' if len(p) == every > 1 else '; '.join(p)}: {text}" for text, p in found.items()]


def _devices(methods: Collection[Mapping[str, Any]]) -> str:
    named = {method["label"]: " and ".join(method["devices"]) for method in methods if method["devices"]}
    if len(set(named.values())) < 2:
        return "".join(f"Trained on {devices}." for devices in set(named.values()))
    each = "; ".join(f"{name} on {devices}" for name, devices in named.items())
    return f"Hours on different devices do not compare; trained were {each}."


def _link(place: str, found: Mapping[str, Any]) -> str:
    page = quote(found["comparison"].removesuffix("json") + "html")
    return f"[{place}]({page}): {found['cases']} cases; labels {', '.join(found['labels'])}"


def _notes(facts: Mapping[str, Any]) -> list[str]:
    unit = facts["unit"]
    times = " times the GPUs that train a network" if unit == "GPU hours" else ""
    return [
        *(f"{method['label']} is {', '.join(method['runs'])}." for method in facts["methods"].values()),
        "Each verdict is that of its comparison. Holm's correction is within a place; it is not over the places: the "
        "more places, the likelier one of them shows a difference by chance.",
        f"{_capital(unit)}: the epochs in nnU-Net's logs{times}; without preprocessing, final validation, prediction "
        "and epochs that were cut off. Repeated: epochs trained again from a checkpoint after an interruption, part of "
        "the total. One of: mean of the finished trainings, nothing repeated. Relative: to the first method, over the "
        "data and folds that both have finished.",
        *facts["notes"],
    ]


def _versions(places: Mapping[str, Any]) -> list[str]:
    """Returns the version of each package; where they differ, with their places."""
    found: dict[str, dict[str, list[str]]] = {}
    for place, own in places.items():
        for package, version in own["versions"].items():
            found.setdefault(package, {}).setdefault(version, []).append(place)
    return [
        f"{package}: {next(iter(by))}" if len(by) == 1 else
        f"{package} differs: " + ", ".join(f"{version} ({'; '.join(where)})" for version, where in by.items())
        for package, by in found.items()
    ]  # fmt: skip


def _answer(own: pandas.DataFrame, method: str, baseline: str) -> str:
    """Returns what was found of a method: how often which answer, and where."""
    answers = [f"{what} {_counted(own, f'{question}_verdict', gap)}" for what, question, gap in QUESTIONS]
    return f"**{method}** against {baseline} in Dice: {'; '.join(answers)}."


def _counted(own: pandas.DataFrame, verdict: str, gap: str) -> str:
    parts = []
    for name in own[verdict].drop_duplicates():
        rows = own[own[verdict] == name].to_dict("records")
        where = "; ".join(f"{row['place']} {DICE.signed(row[gap])}" for row in rows)
        parts.append(f"{name} in {len(rows)} of {len(own)} ({where})")
    return ", ".join(parts)


def _means(scores: pandas.DataFrame, methods: list[str], metric: Metric) -> Table:
    shown: dict[str, list[str | None]] = {"method": list(methods)}
    bold = set()
    for place, own in scores.groupby("place", sort=False):
        rows = own.set_index("method")
        shown[str(place)] = [_spread(rows.loc[name], metric) if name in rows.index else None for name in methods]
        # A mean that leaves out infinite distances is no better for it.
        ranked = rows.dropna(subset="mean").sort_values(
            ["infinite", "mean"], ascending=[True, not metric.higher_is_better]
        )
        best = ranked[(ranked[["infinite", "mean"]] == ranked[["infinite", "mean"]].head(1).squeeze()).all(axis=1)]
        bold |= {(methods.index(name), str(place)) for name in best.index}
    caption = "Mean (standard deviation over seeds / over folds); bold: the best mean."
    return Table(pandas.DataFrame(shown), caption, bold=bold)


def _forest(verdicts: pandas.DataFrame, baseline: str) -> Figure:
    # Methods within places, below a row for the baseline, which is not drawn.
    named = verdicts.assign(method=verdicts["place"] + ", " + verdicts["method"])
    rows = pandas.concat([pandas.DataFrame({"method": [baseline]}), named], ignore_index=True)
    return Figure(
        svg=draw_forest(rows, f"Dice, difference from {baseline}"),
        caption="Differences with their 95 % intervals: over cases (these networks) and over trainings (the methods), "
        "where there are three or more.",
    )


def _answers(verdicts: pandas.DataFrame, baseline: str) -> Table:
    rows = [
        {
            "place": row["place"],
            "method": row["method"],
            "question": what,
            "verdict": row[f"{question}_verdict"],
            "difference": DICE.signed(row[gap]),
            "95 % interval": DICE.interval(row[f"{question}_low"], row[f"{question}_high"]),
            "p": p_value(row[f"{question}_p"]),
            "p (Holm)": p_value(row[f"{question}_p_holm"]),
            "pairs": f"{row[f'{question}_count']:.0f}",
        }
        for row in verdicts.to_dict("records")
        for what, question, gap in QUESTIONS
    ]
    return Table(pandas.DataFrame(rows), f"Differences from {baseline}, paired.", text_columns=4)


def _differences(secondary: pandas.DataFrame, metric: Metric) -> Table:
    rows = [
        {
            "place": row["place"],
            "method": row["method"],
            "difference": metric.signed(row["difference"]),
            "95 % interval": metric.interval(row["low"], row["high"]),
            "p (Holm)": p_value(row["p_holm"]),
            "these networks": row["verdict"],
        }
        for row in secondary.to_dict("records")
    ]
    return Table(pandas.DataFrame(rows), "Differences, paired by case; networks only.", text_columns=2)


def _hours(hours: pandas.DataFrame, trainings: list[int]) -> Table:
    shown = pandas.DataFrame({"method": hours["method"]})
    shown["finished"] = [f"{done} of {all_}" for done, all_ in zip(hours["finished"], trainings, strict=True)]
    shown["in total"], shown["repeated"], shown["relative"] = hours["total"], hours["repeated"], hours["relative"]
    data = {name: f"one of {name}" for name in hours.columns[list(hours.columns).index("relative") + 1 :]}
    shown = shown.join(hours[list(data)].rename(columns=data))
    formats = {**dict.fromkeys(["in total", "repeated", *data.values()], _number), "relative": lambda x: f"x {x:.2f}"}
    return Table(shown, formats=formats)


def _spread(row: Any, metric: Metric) -> str:
    text = metric.number(row["mean"])
    if text == MISSING:
        return text
    spreads = [row["over_seeds"], row["over_folds"]]
    if any(pandas.notna(value) for value in spreads):
        text += f" ({' / '.join(map(metric.number, spreads))})"
    counts = [(row["infinite"], "infinite"), (row["undefined"], "undefined")]
    return ", ".join([text, *(f"{count} {what}" for count, what in counts if count)])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
