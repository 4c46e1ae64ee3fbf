"""The figures of an inspection, as PNG."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_salstm.reporting.figures import COLOURS, new_figure, plain_style, to_png
from nnunetv2_salstm.reporting.overlays import Overlay, draw_overlays

WIDTH = 12.0
GATES = {"i": "input gate i", "f": "forget gate f", "o": "output gate o", "g": "candidate g"}
DIRECTIONS = ("forward", "reverse")
DISTANCES = ("from_identity", "from_uniform")
MOST_PANELS_A_ROW = 5


@plain_style
def draw_sparsity(frame: pandas.DataFrame) -> bytes:
    """Returns sparsity and mean magnitude against the stage, of the skips before and after the modules and of these."""
    panels = {"before": "skip before the module", "after": "skip after the module", "module": "output of the module"}
    if not frame["module_magnitude"].notna().any():
        panels = {"before": "output of the encoder"}
    figure = new_figure(WIDTH if len(panels) > 1 else WIDTH / 2, 2 * 2.9)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True)
    for (above, below), (kind, title) in zip(grid.T, panels.items(), strict=True):
        _draw_models(above, frame, f"{kind}_sparsity")
        _draw_models(below, frame, f"{kind}_magnitude")
        above.set_title(title, loc="left")
        above.set_ylim(0, 1)
        _start_at_zero(below)
        below.set_xlabel("stage of the encoder")
    grid[0, 0].set_ylabel("L1-norm sparsity")
    grid[1, 0].set_ylabel("mean absolute value")
    _legend(figure)
    return to_png(figure)


@plain_style
def draw_contributions(frame: pandas.DataFrame) -> bytes:
    """Returns the norm of each module's contribution, relative to its skip's, against the stage."""
    figure = new_figure(WIDTH / 2, 3.4)
    axes = figure.subplots()
    _draw_models(axes, frame.assign(contribution=100 * frame["contribution"]), "contribution")
    _start_at_zero(axes)
    axes.set_xlabel("stage of the encoder")
    axes.set_ylabel("contribution, % of the skip's norm")
    _legend(figure)
    return to_png(figure)


@plain_style
def draw_attention(frame: pandas.DataFrame, collapsed: float, few: float) -> bytes:
    """Returns entropy, distances and kept rank of the attention against the stage; what has collapsed lies on grey."""
    figure = new_figure(WIDTH, 3.6)
    panels = {
        "entropy": ("entropy of the rows", 0.0),
        "from_identity": ("distance from the identity", collapsed),
        "from_uniform": ("distance from the uniform matrix", collapsed),
        "rank_kept": ("rank of Y = A V, of V's", few),
    }
    for axes, (name, (title, grey)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
            _draw_models(axes, frame, f"{direction}_{name}", style, f", {direction}")
        if grey:
            axes.axhspan(0, grey, color="#8a8a8a", alpha=0.3, linewidth=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylim(-0.03, max(1.03, axes.dataLim.ymax + 0.03))
        axes.set_xlabel("stage of the encoder")
    _legend(figure)
    return to_png(figure)


@plain_style
def draw_matrices(frame: pandas.DataFrame, matrices: Mapping[tuple[int, str], np.ndarray]) -> bytes:
    """Returns a model's attention matrices, a column for each stage, with their distances from the frame's means."""
    stages = sorted({stage for stage, _ in matrices})
    means = frame.groupby("stage").mean(numeric_only=True)
    edge = min(2.4, WIDTH / len(stages))
    figure = new_figure(max(edge * len(stages), 4.0) + 0.8, 2 * (edge + 0.5) + 0.3)
    grid = figure.subplots(2, len(stages), squeeze=False)
    for row, direction in enumerate(DIRECTIONS):
        for axes, stage in zip(list(grid[row]), stages, strict=True):
            matrix = matrices[stage, direction]
            image = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            identity, uniform = (float(means[f"{direction}_{name}"][stage]) for name in DISTANCES)
            title = f"stage {stage}, {len(matrix)} channels\nto I {identity:.2f}, to 1/C {uniform:.2f}"
            axes.set_title(title, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 1:
                axes.set_xlabel("channel of V")
        grid[row, 0].set_ylabel(direction + "\nchannel of Y")
    figure.colorbar(image, ax=grid, shrink=0.6, label="attention")
    return to_png(figure)


@plain_style
def draw_gates(frame: pandas.DataFrame) -> bytes:
    """Returns mean and standard deviation of each gate, and the shares that are saturated, against the stage."""
    figure = new_figure(WIDTH, 5.6)
    grid = figure.subplots(2, len(GATES), sharex=True, squeeze=False, height_ratios=(3, 2))
    means = frame.groupby(["model", "stage"], sort=False).mean(numeric_only=True)
    with_gates = frame.loc[frame["i_mean"].notna(), "model"].unique()
    colours = _colours(frame)
    for column, (gate, title) in enumerate(GATES.items()):
        above, below = grid[:, column]
        for place, label in enumerate(with_gates):
            found = means.loc[label].dropna(subset=f"{gate}_mean")
            x = found.index + 0.24 * (place - (len(with_gates) - 1) / 2)
            colour = colours[label]
            mean, deviation = found[f"{gate}_mean"], found[f"{gate}_deviation"]
            above.errorbar(x, mean, yerr=deviation, fmt="o", color=colour, capsize=3, label=label)
            below.bar(x, 100 * found[f"{gate}_high"], 0.2, color=colour)
            below.bar(x, -100 * found[f"{gate}_low"], 0.2, color=colour, alpha=0.45)
        above.set_title(title, loc="left")
        above.set_ylim((-1, 1) if gate == "g" else (0, 1))
        below.set_ylim(-100, 100)
        below.set_yticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
        below.axhline(0, color="#333", linewidth=0.8)
        below.set_xlabel("stage of the encoder")
        for axes in (above, below):
            _number_stages(axes, frame)
    grid[0, 0].set_ylabel("mean ± standard deviation")
    grid[1, 0].set_ylabel("saturated, %\nlow            high")
    _legend(figure)
    return to_png(figure)


def draw_maps(case: str, models: Mapping[str, Any]) -> bytes:
    """Returns a slice of a case and the size of each module's contribution in it, for each model.

    Args:
        case: its name.
        models: by label, image, maps, z, depth and pixel, see `evaluation.subject.ContributionMaps`.
    """
    panels = [
        [
            Overlay(seen.image, f"{label}\nslice {seen.z + 1} of {seen.depth}", pixel=seen.pixel),
            *(
                Overlay(seen.image, f"stage {stage}\nup to {100 * there.max():.3g} %", heat=there, pixel=seen.pixel)
                for stage, there in seen.maps.items()
            ),
        ]
        for label, seen in models.items()
    ]
    most = max(map(len, panels))
    columns = most if most <= MOST_PANELS_A_ROW else math.ceil(most / 2)
    rows = [row[start : start + columns] for row in panels for start in range(0, len(row), columns)]
    return draw_overlays(rows, title=case)


def _draw_models(axes: Axes, frame: pandas.DataFrame, column: str, style: str = "-", suffix: str = "") -> None:
    """Draws each model's mean over the cases as a line, and their range as a band."""
    for label, colour in _colours(frame).items():
        of_model = frame[frame["model"] == label]
        found = of_model.groupby("stage")[column].agg(["mean", "min", "max"]).dropna()
        if len(found):
            axes.plot(found.index, found["mean"], style, marker="o", color=colour, label=f"{label}{suffix}")
            axes.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.2, linewidth=0)
    _number_stages(axes, frame)


def _colours(frame: pandas.DataFrame) -> dict[str, str]:
    return dict(zip(frame["model"].unique(), COLOURS, strict=False))


def _start_at_zero(axes: Axes) -> None:
    # Of zeros only, or of nothing, any height will do.
    axes.set_ylim(0, 1.1 * max(axes.dataLim.ymax, 0.0) or 1.0)


def _number_stages(axes: Axes, frame: pandas.DataFrame) -> None:
    last = frame["stage"].max()
    axes.set_xticks(range(last + 1))
    axes.set_xlim(-0.5, last + 0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = 2 if figure.get_figwidth() == WIDTH else 1
    figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns, frameon=False)
