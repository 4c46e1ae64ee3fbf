"""The figure of a study's report: the difference in Dice with its interval, for each arm and place."""

from matplotlib.lines import Line2D

from nnunetv2_salstm.evaluation.statistics import CONFIDENCE
from nnunetv2_salstm.page import COLOURS, new_figure, plain_style, to_svg
from nnunetv2_salstm.study.report import StudyReport

# In inches, of an arm in a place.
_LINE = 0.24


@plain_style
def draw_forest(report: StudyReport) -> str:
    """Returns a point and a line for each arm in each place, filled where a difference is shown, as SVG."""
    arms = report.arms[1:]
    rows = len(arms) + 1  # one stays empty between places
    figure = new_figure(12, 1.3 + _LINE * rows * len(report.places))
    axes = figure.subplots()
    for place_row, place in enumerate(report.places):
        for row, arm in enumerate(arms):
            found = place.found(arm.name, "dice")
            if found.mean_difference is None or found.low is None or found.high is None:
                continue
            height, colour = place_row * rows + row, COLOURS[(row + 1) % len(COLOURS)]
            axes.plot([found.low, found.high], [height, height], color=colour, linewidth=2)
            shown = found.verdict() in ("better", "worse")
            axes.plot(found.mean_difference, height, "o", color=colour, markerfacecolor=colour if shown else "white")
    axes.axvline(0, color="#333", linewidth=1)
    for place_row in range(1, len(report.places)):
        axes.axhline(place_row * rows - 1, color="#ddd", linewidth=1)
    axes.set_yticks(
        [place_row * rows + (len(arms) - 1) / 2 for place_row in range(len(report.places))],
        [place.name for place in report.places],
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows * len(report.places) - 1, -1)
    axes.set_xlabel(
        f"Dice minus that of {report.baseline}, {CONFIDENCE:.0%} interval; to the right is better, filled: a "
        "difference is shown"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [
        Line2D([], [], color=COLOURS[(row + 1) % len(COLOURS)], marker="o", label=report.short[arm.name])
        for row, arm in enumerate(arms)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(arms)), frameon=False)
    return to_svg(figure)
