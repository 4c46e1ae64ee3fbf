"""The figures of an inspection, as PNG."""

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_salstm.evaluation.probe import DIRECTIONS, GATES
from nnunetv2_salstm.page import COLOURS, new_figure, plain_style
from nnunetv2_salstm.reporting.inspection import (
    COLLAPSED,
    ModelFindings,
    Quantity,
    contribution,
    of_attention,
    of_gate,
    percent,
)
from nnunetv2_salstm.reporting.inspection_overlay import Overlay

DPI = 110
WIDTH = 12.0
GATE_NAMES = {"i": "input gate i", "f": "forget gate f", "o": "output gate o", "g": "candidate g"}
DISTANCES = ("from_identity", "from_uniform")
MOST_PANELS_A_ROW = 5


@plain_style
def draw_sparsity(models: Sequence[ModelFindings]) -> bytes:
    """Returns sparsity and mean magnitude against the stage, of the skips before and after the modules and of these."""
    titles = ("skip before the module", "skip after the module", "output of the module")
    kinds: list[Callable] = [
        lambda stage: stage.before,
        lambda stage: stage.after,
        lambda stage: stage.module and stage.module.output,
    ]
    names = {"sparsity": "L1-norm sparsity", "magnitude": "mean absolute value"}
    shown = range(3 if any(model.stages() for model in models) else 1)
    figure = _new(2 * 2.9, WIDTH if len(shown) > 1 else WIDTH / 2)
    grid = figure.subplots(2, len(shown), squeeze=False, sharex=True)
    for row, (name, label) in enumerate(names.items()):
        for column in shown:
            axes = grid[row, column]

            def quantity(stage, kind=kinds[column], name=name):
                features = kind(stage)
                return features and getattr(features, name)

            for index, model in enumerate(models):
                _draw_series(axes, model, quantity, index)
            if row == 0:
                axes.set_title(titles[column] if len(shown) > 1 else "output of the encoder", loc="left")
                axes.set_ylim(0, 1)
            else:
                _start_at_zero(axes)
                axes.set_xlabel("stage of the encoder")
            if column == 0:
                axes.set_ylabel(label)
            _number_stages(axes, models)
    _legend(figure)
    return _to_png(figure)


@plain_style
def draw_contributions(models: Sequence[ModelFindings]) -> bytes:
    """Returns the norm of each module's contribution, relative to its skip's, against the stage."""
    figure = _new(3.4, WIDTH / 2)
    axes = figure.subplots()

    def in_percent(stage):
        share = contribution(stage)
        return None if share is None else 100 * share

    for index, model in enumerate(models):
        _draw_series(axes, model, in_percent, index)
    _start_at_zero(axes)
    axes.set_xlabel("stage of the encoder")
    axes.set_ylabel("contribution, % of the skip's norm")
    _number_stages(axes, models)
    _legend(figure)
    return _to_png(figure)


@plain_style
def draw_matrices(model: ModelFindings) -> bytes:
    """Returns a model's attention matrices, means over slices and cases, a column for each stage."""
    stages = model.stages("attention")
    edge = min(2.4, WIDTH / len(stages))
    figure = _new(2 * (edge + 0.5) + 0.3, max(edge * len(stages), 4.0) + 0.8)
    grid = figure.subplots(2, len(stages), squeeze=False)
    for row, direction in enumerate(DIRECTIONS):
        for column, stage in enumerate(stages):
            axes = grid[row, column]
            matrix = model.matrix(stage, direction)
            image = axes.imshow(matrix.numpy(), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            identity, uniform = (model.mean(stage, of_attention(direction, name)) for name in DISTANCES)
            axes.set_title(
                f"stage {stage}, {len(matrix)} channels\nto I {identity:.2f}, to 1/C {uniform:.2f}", fontsize=9
            )
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(f"{direction}\nchannel of Y")
            if row == 1:
                axes.set_xlabel("channel of V")
    figure.colorbar(image, ax=grid, shrink=0.6, label="attention")
    return _to_png(figure)


@plain_style
def draw_attention(models: Sequence[ModelFindings]) -> bytes:
    """Returns entropy and distances of the attention matrices against the stage."""
    figure = _new(3.6)
    names = {
        "entropy": "entropy of the rows",
        "from_identity": "distance from the identity",
        "from_uniform": "distance from the uniform matrix",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for index, model in enumerate(models):
            for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
                _draw_series(axes, model, of_attention(direction, name), index, style, f"{model.label}, {direction}")
        if name in DISTANCES:
            axes.axhspan(0, COLLAPSED, color="#8a8a8a", alpha=0.3, linewidth=0)
        axes.set_title(title, loc="left")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("stage of the encoder")
        _number_stages(axes, models)
    _legend(figure)
    return _to_png(figure)


@plain_style
def draw_gates(models: Sequence[ModelFindings]) -> bytes:
    """Returns mean and standard deviation of each gate, and the shares that are saturated, against the stage."""
    figure = _new(5.6)
    grid = figure.subplots(2, len(GATES), sharex=True, squeeze=False, height_ratios=(3, 2))
    with_gates = [(index, model) for index, model in enumerate(models) if model.stages("gates")]
    for column, gate in enumerate(GATES):
        above, below = grid[:, column]
        for place, (index, model) in enumerate(with_gates):
            mean, deviation, low, high = (
                model.series(of_gate(gate, name)) for name in ("mean", "deviation", "low", "high")
            )
            x = [stage + 0.24 * (place - (len(with_gates) - 1) / 2) for stage in mean.stages]
            colour = COLOURS[index]
            above.errorbar(x, mean.mean, yerr=deviation.mean, fmt="o", color=colour, capsize=3, label=model.label)
            below.bar(x, [100 * share for share in high.mean], 0.2, color=colour)
            below.bar(x, [-100 * share for share in low.mean], 0.2, color=colour, alpha=0.45)
        above.set_title(GATE_NAMES[gate], loc="left")
        above.set_ylim((-1, 1) if gate == "g" else (0, 1))
        below.set_ylim(-100, 100)
        below.set_yticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
        below.axhline(0, color="#333", linewidth=0.8)
        below.set_xlabel("stage of the encoder")
        for axes in (above, below):
            _number_stages(axes, models)
    grid[0, 0].set_ylabel("mean ± standard deviation")
    grid[1, 0].set_ylabel("saturated, %\nlow            high")
    _legend(figure)
    return _to_png(figure)


@plain_style
def draw_overlays(case: str, overlays: Sequence[tuple[ModelFindings, Overlay]]) -> bytes:
    """Returns a slice of a case and the size of each module's contribution in it, for each model."""
    panels: list[list[tuple[Overlay, np.ndarray | None, str]]] = []
    for model, overlay in overlays:
        title = f"{model.label}\nslice {overlay.z + 1} of {overlay.depth}"
        panels.append([(overlay, None, title)])
        for stage, there in overlay.maps.items():
            panels[-1].append((overlay, there, f"stage {stage}\nup to {percent(there.max())}"))
    most = max(map(len, panels))
    columns = most if most <= MOST_PANELS_A_ROW else math.ceil(most / 2)
    rows = sum(math.ceil(len(row) / columns) for row in panels)
    width = WIDTH / columns
    tallest = max(o.image.shape[0] * o.pixel[0] / (o.image.shape[1] * o.pixel[1]) for _, o in overlays)
    figure = _new(rows * (min(width * tallest, 2 * width) + 0.5) + 0.3)
    grid = iter(figure.subplots(rows, columns, squeeze=False))
    for row in panels:
        for start in range(0, len(row), columns):
            line = next(grid)
            for axes in line:
                axes.set_axis_off()
            for axes, (overlay, added, title) in zip(line, row[start : start + columns], strict=False):
                _draw_overlay(axes, overlay, added)
                axes.set_title(title, fontsize=10, loc="left")
    figure.suptitle(case, fontsize=11)
    return _to_png(figure)


def _draw_overlay(axes: Axes, overlay: Overlay, there: np.ndarray | None) -> None:
    image = overlay.image
    height, width = (size * edge for size, edge in zip(image.shape, overlay.pixel, strict=True))
    extent = (0, width, height, 0)
    low, high = np.percentile(image, (0.5, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    if there is not None and there.max() > 0:
        share = there / there.max()
        axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * share, extent=extent, interpolation="nearest")


def _draw_series(
    axes: Axes, model: ModelFindings, quantity: Quantity, index: int, style: str = "-", label: str | None = None
) -> None:
    """Draws a model's mean over the cases as a line, and their range as a band."""
    series = model.series(quantity)
    if series.stages:
        axes.plot(series.stages, series.mean, style, marker="o", color=COLOURS[index], label=label or model.label)
        axes.fill_between(series.stages, series.low, series.high, color=COLOURS[index], alpha=0.2, linewidth=0)


def _start_at_zero(axes: Axes) -> None:
    # Of zeros only, or of nothing, any height will do.
    axes.set_ylim(0, 1.1 * max(axes.dataLim.ymax, 0.0) or 1.0)


def _number_stages(axes: Axes, models: Sequence[ModelFindings]) -> None:
    axes.set_xticks(range(max(model.n_stages for model in models)))
    axes.set_xlim(-0.5, max(model.n_stages for model in models) - 0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper left",
        ncols=2 if figure.get_figwidth() == WIDTH else 1,
        frameon=False,
    )


def _new(height: float, width: float = WIDTH) -> Figure:
    return new_figure(width, height)


def _to_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
