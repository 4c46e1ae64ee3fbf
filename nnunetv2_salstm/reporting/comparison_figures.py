"""The figures of a comparison: paired differences, cases against each other, learning curves."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nnunetv2_salstm.evaluation.results import Results
from nnunetv2_salstm.evaluation.runs import Arm
from nnunetv2_salstm.page import COLOURS, new_figure, plain_style, to_svg


@plain_style
def draw_differences(results: Results) -> str:
    """Returns a strip and box of the paired differences in Dice for each label and arm, as SVG."""
    arms = results.arms[1:]
    figure = new_figure(12, 1.4 + 0.42 * len(results.all_labels) * len(arms))
    axes = figure.subplots()
    positions, names = [], []
    for row, label in enumerate(results.all_labels):
        for column, arm in enumerate(arms):
            place = row + (column - (len(arms) - 1) / 2) * 0.8 / len(arms)
            gaps = _differences(results, arm.name, label)
            colour = COLOURS[(column + 1) % len(COLOURS)]
            # Spread so that equal differences stay visible; by rank, not by chance.
            spread = np.linspace(-0.25, 0.25, len(gaps)) * 0.8 / len(arms)
            axes.scatter(
                gaps,
                place + spread,
                s=14,
                color=colour,
                alpha=0.6,
                linewidths=0,
                label=results.short[arm.name] if not row else None,
            )
            if len(gaps) > 1:
                axes.boxplot(
                    gaps, positions=[place], orientation="horizontal", widths=0.6 / len(arms), showfliers=False,
                    manage_ticks=False, medianprops={"color": "#222"},
                )  # fmt: skip
        positions.append(row)
        names.append(label)
    axes.axvline(0, color="#333", linewidth=1)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"Dice minus that of {results.short[results.baseline]}; to the right is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=min(5, len(arms)), frameon=False)
    return to_svg(figure)


@plain_style
def draw_scatter(results: Results) -> str:
    """Returns, for each arm, its Dice against the baseline's, a point for each case, as SVG."""
    arms, label = results.arms[1:], results.all_labels[0]
    edge = min(4.6, 12 / len(arms))
    figure = new_figure(edge * len(arms), edge)
    for index, (axes, arm) in enumerate(zip(figure.subplots(1, len(arms), squeeze=False)[0], arms, strict=True)):
        y, x = (list(values.values()) for values in results.pairs(arm.name, label, "dice"))
        axes.scatter(x, y, s=18, color=COLOURS[(index + 1) % len(COLOURS)], alpha=0.7, linewidths=0)
        low, high = min([*x, *y], default=0.0), max([*x, *y], default=1.0)
        margin = 0.03 * (high - low) or 0.01
        axes.plot([low, high], [low, high], color="#333", linewidth=1)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
        axes.set_xlabel(f"Dice of {results.short[results.baseline]}")
        axes.set_ylabel(f"Dice of {results.short[arm.name]}")
        axes.spines[["top", "right"]].set_visible(False)
    return to_svg(figure)


@plain_style
def draw_curves(results: Results) -> str:
    """Returns the learning curves of all trainings as SVG, empty where there is no log."""
    arms = results.arms
    if not any(training.log.train_loss for arm in arms for run in arm.runs for training in run.folds.values()):
        return ""
    figure = new_figure(12, 4.4)
    panels = {
        "train_loss": "training loss",
        "val_loss": "validation loss",
        "pseudo_dice": "pseudo Dice, mean over labels",
    }
    for axes, (quantity, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for index, arm in enumerate(arms):
            _draw_curve(axes, arm, quantity, COLOURS[index % len(COLOURS)], results.short[arm.name])
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(5, len(labels)), frameon=False)
    return to_svg(figure)


def _draw_curve(axes: Axes, arm: Arm, quantity: str, colour: str, name: str) -> None:
    """Draws an arm's mean over folds and seeds, and each of them thinly."""
    curves = [getattr(training.log, quantity) for run in arm.runs for training in run.folds.values()]
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    # A single epoch is a point, which a line would not show.
    marker = "o" if max(map(len, curves)) == 1 else None
    if len(curves) > 1:
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=colour, linewidth=0.6, alpha=0.4)
    epochs = sorted(set().union(*curves))
    means = [math.fsum(found) / len(found) for epoch in epochs if (found := [c[epoch] for c in curves if epoch in c])]
    axes.plot(epochs, means, color=colour, linewidth=1.8, marker=marker, label=name)


def _differences(results: Results, arm: str, label: str) -> list[float]:
    ours, theirs = results.pairs(arm, label, "dice")
    return sorted(ours[case] - theirs[case] for case in theirs)
