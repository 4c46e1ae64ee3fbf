"""The report as a page for a browser: a bar chart of the ratios and the table."""

import io
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nnunetv2_salstm.bench.report import BASELINE, QUANTITIES, TIMED, Report, short_name

CHARTED = (*TIMED, "peak_memory")
COLOURS = ("#3b6fb6", "#d98032", "#5d9e5a", "#a0569a", "#8a8a8a")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #222; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; } tr.first td { border-top: 2px solid #999; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; } footer, .notes { font-size: 14px; }
"""


def to_html(report: Report) -> str:
    """Returns the page, which needs no other file."""
    head, *rows = report.rows()
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        first = before is None or before[0] != row[0]
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="first">{cells}</tr>' if first else f"<tr>{cells}</tr>")
    made_with = {**report.hardware, **report.versions}
    chart = _chart(report)
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>nnUNetv2_salstm bench</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Time and memory against the stock network</h1>",
        f"<figure>{chart}</figure>" if chart else f"<p>Without {escape(BASELINE)} there are no ratios to draw.</p>",
        f'<div class="table"><table>{"".join(lines)}</table></div>',
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in report.notes())}</ul>',
        f"<footer><p>Made by <code>{escape(report.command)}</code></p><p>",
        escape(", ".join(f"{name}: {value}" for name, value in made_with.items())),
        "</p></footer></body></html>",
        "",
    ])  # fmt: skip


def _chart(report: Report) -> str:
    """Returns the bar chart as SVG, empty if there is no ratio."""
    trainers = [trainer for trainer in report.trainers if trainer != BASELINE]
    charted = [
        quantity
        for quantity in CHARTED
        if any(m.trainer != BASELINE and report.ratio(m, quantity) for m in report.measurements)
    ]
    if not charted:
        return ""
    height = 1.2 + len(report.plans) * (0.24 * len(trainers) + 0.2)
    figure = Figure(figsize=(12, height), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, quantity in zip(figure.subplots(1, len(charted), sharey=True, squeeze=False)[0], charted, strict=True):
        _draw(axes, report, trainers, quantity)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "nnunetv2_salstm"}):  # equal reports make equal pages
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _draw(axes: Axes, report: Report, trainers: list[str], quantity: str) -> None:
    thickness = 0.8 / len(trainers)
    for index, trainer in enumerate(trainers):
        positions, values, errors = [], [], []
        for place, plan in enumerate(report.plans):
            found = [m for m in report.measurements if (m.plan, m.trainer) == (plan, trainer)]
            ratio = report.ratio(found[0], quantity) if found else None
            if ratio is not None:
                positions.append(place + (index - (len(trainers) - 1) / 2) * thickness)
                values.append(ratio.value)
                low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
                # Half of the range lies outside of the median's ratio at times; a bar cannot end before it begins.
                errors.append((max(0.0, ratio.value - low), max(0.0, high - ratio.value)))
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(positions, values, thickness * 0.9, color=colour, label=short_name(trainer))
        if quantity in TIMED:
            axes.errorbar(
                values, positions, xerr=list(zip(*errors, strict=True)), fmt="none", ecolor="#333", elinewidth=1
            )
        for position, value in zip(positions, values, strict=True):
            axes.text(0.02, position, f"{value:.2f}", va="center", color="white", fontsize=8)
    axes.axvline(1, color="#333", linewidth=1)
    axes.set_yticks(range(len(report.plans)), report.plans)
    axes.invert_yaxis()
    axes.set_title(QUANTITIES[quantity][0].removeprefix("s / ").partition(" (")[0], loc="left")
    axes.set_xlabel("ratio to the stock network")
    axes.spines[["top", "right"]].set_visible(False)
