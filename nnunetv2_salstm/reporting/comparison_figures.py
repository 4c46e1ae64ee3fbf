"""The figures of a comparison: forest plot, paired differences, cases against each other, learning curves."""

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nnunetv2_salstm.reporting.figures import COLOURS, new_figure, plain_style, to_svg


@plain_style
def draw_forest(methods: pandas.DataFrame, axis: str) -> str:
    """Returns a forest plot as SVG: each method's difference with both intervals.

    Args:
        methods: method, difference, networks_low, networks_high, methods_difference, methods_low, methods_high; the
            first row is the baseline's.
        axis: what the differences are.
    """
    rows = methods.iloc[1:].to_dict("records")
    figure = new_figure(12, 1.3 + 0.5 * len(rows))
    axes = figure.subplots()
    kinds = (
        ("difference", "networks", "these networks (over cases)"),
        ("methods_difference", "methods", "the methods (over trainings)"),
    )
    for index, (value, prefix, name) in enumerate(kinds):
        known = [(place, row) for place, row in enumerate(rows) if not pandas.isna(row[f"{prefix}_low"])]
        if known:
            middle = np.array([row[value] for _, row in known])
            low, high = (np.array([row[f"{prefix}_{end}"] for _, row in known]) for end in ("low", "high"))
            places = [place + 0.3 * index - 0.15 for place, _ in known]
            # Rounding may put the mean of equal differences beside their interval.
            reach = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
            axes.errorbar(middle, places, xerr=reach, fmt="os"[index], color=COLOURS[index], capsize=3, label=name)
    axes.axvline(0, color="#333", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return to_svg(figure)


@plain_style
def draw_differences(differences: pandas.DataFrame, axis: str) -> str:
    """Returns a strip and box of the paired differences for each label and method, as SVG.

    Args:
        differences: method, label, difference of every case.
        axis: what the differences are.
    """
    methods, labels = list(differences["method"].unique()), list(differences["label"].unique())
    figure = new_figure(12, 1.4 + 0.42 * len(labels) * len(methods))
    axes = figure.subplots()
    for row, label in enumerate(labels):
        for column, method in enumerate(methods):
            chosen = (differences["label"] == label) & (differences["method"] == method)
            gaps = np.sort(differences.loc[chosen, "difference"].to_numpy())
            gaps = gaps[np.isfinite(gaps)]
            place = row + (column - (len(methods) - 1) / 2) * 0.8 / len(methods)
            # Spread so that equal differences stay visible; by rank, not by chance.
            spread = np.linspace(-0.25, 0.25, len(gaps)) * 0.8 / len(methods)
            colour = COLOURS[(column + 1) % len(COLOURS)]
            name = None if row else method
            axes.scatter(gaps, place + spread, s=14, color=colour, alpha=0.6, linewidths=0, label=name)
            if len(gaps) > 1:
                axes.boxplot(
                    gaps, positions=[place], orientation="horizontal", widths=0.6 / len(methods), showfliers=False,
                    manage_ticks=False, medianprops={"color": "#222"},
                )  # fmt: skip
    axes.axvline(0, color="#333", linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=min(5, len(methods)), frameon=False)
    return to_svg(figure)


@plain_style
def draw_scatter(pairs: pandas.DataFrame, title: str, baseline: str) -> str:
    """Returns, for each method, its values against the baseline's, a point for each case, as SVG.

    Args:
        pairs: method, ours, theirs.
        title: what the values are.
        baseline: whose values are theirs.
    """
    methods = list(pairs["method"].unique())
    edge = min(4.6, 12 / len(methods))
    figure = new_figure(edge * len(methods), edge)
    for index, (axes, method) in enumerate(
        zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True)
    ):
        values = pairs.loc[pairs["method"] == method, ["theirs", "ours"]].to_numpy(float)
        values = values[np.isfinite(values).all(axis=1)]
        axes.scatter(*values.T, s=18, color=COLOURS[(index + 1) % len(COLOURS)], alpha=0.7, linewidths=0)
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        margin = 0.03 * (high - low) or 0.01
        axes.plot([low, high], [low, high], color="#333", linewidth=1)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
        axes.set_xlabel(f"{title} of {baseline}")
        axes.set_ylabel(f"{title} of {method}")
        axes.spines[["top", "right"]].set_visible(False)
    return to_svg(figure)


@plain_style
def draw_curves(curves: pandas.DataFrame) -> str:
    """Returns the learning curves of all trainings as SVG.

    Args:
        curves: method, training, epoch, quantity (train_loss, val_loss, pseudo_dice), value.
    """
    figure = new_figure(12, 4.4)
    panels = {
        "train_loss": "training loss",
        "val_loss": "validation loss",
        "pseudo_dice": "pseudo Dice, mean over labels",
    }
    methods = list(curves["method"].unique())
    for axes, (quantity, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for index, method in enumerate(methods):
            chosen = (curves["method"] == method) & (curves["quantity"] == quantity)
            _draw_curve(axes, curves[chosen], COLOURS[index % len(COLOURS)], method)
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(5, len(labels)), frameon=False)
    return to_svg(figure)


def _draw_curve(axes: Axes, curves: pandas.DataFrame, colour: str, name: str) -> None:
    """Draws a method's mean over folds and seeds, and each of them thinly."""
    if curves.empty:
        return
    by_training = [curve for _, curve in curves.groupby("training", sort=False)]
    # A single epoch is a point, which a line would not show.
    marker = "o" if max(map(len, by_training)) == 1 else None
    if len(by_training) > 1:
        for curve in by_training:
            axes.plot(curve["epoch"], curve["value"], color=colour, linewidth=0.6, alpha=0.4)
    mean = curves.groupby("epoch")["value"].mean()
    axes.plot(mean.index, mean, color=colour, linewidth=1.8, marker=marker, label=name)
