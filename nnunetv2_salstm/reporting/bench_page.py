"""The report as a page for a browser: a bar chart of the ratios and the table."""

from html import escape

from matplotlib.axes import Axes

from nnunetv2_salstm.page import (
    COLOURS,
    html_figure,
    html_footer,
    html_list,
    html_page,
    html_table,
    new_figure,
    plain_style,
    to_svg,
)
from nnunetv2_salstm.reporting.bench import BASELINE, QUANTITIES, TIMED, Report, short_name

CHARTED = (*TIMED, "peak_memory")


def to_html(report: Report) -> str:
    """Returns the page, which needs no other file."""
    chart = _chart(report)
    return html_page(
        "nnUNetv2_salstm bench",
        [
            "<h1>Time and memory against the stock network</h1>",
            html_figure(chart) or f"<p>Without {escape(BASELINE)} there are no ratios to draw.</p>",
            html_table(report.rows(), text_columns=3),
            html_list(report.notes()),
            html_footer(report.command, {**report.hardware, **report.versions}),
        ],
    )


@plain_style
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
    figure = new_figure(12, height)
    for axes, quantity in zip(figure.subplots(1, len(charted), sharey=True, squeeze=False)[0], charted, strict=True):
        _draw(axes, report, trainers, quantity)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    return to_svg(figure)


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
