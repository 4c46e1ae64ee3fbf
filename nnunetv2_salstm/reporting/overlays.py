"""Slices of images with segmentations or a map over them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunetv2_salstm.reporting.figures import new_figure, plain_style, to_png

WIDTH = 12.0
# Okabe and Ito's, told apart also by readers who see red and green alike.
LABEL_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


@dataclass(frozen=True)
class Overlay:
    """A slice of an image and what lies over it.

    Attributes:
        image: grey values, (H, W).
        title: above the slice.
        areas: masks that are tinted, (H, W), by label; of those that overlap, the later ones lie on top.
        outlines: masks that are outlined, (H, W), by label.
        heat: a map of values from 0, (H, W), from transparent at 0 to bright at its largest value.
        pixel: edge lengths of a pixel along H and W, in mm.
        window: grey values shown as black and as white; by default percentiles of the slice.
    """

    image: np.ndarray
    title: str = ""
    areas: Mapping[str, np.ndarray] = field(default_factory=dict)
    outlines: Mapping[str, np.ndarray] = field(default_factory=dict)
    heat: np.ndarray | None = None
    pixel: tuple[float, float] = (1.0, 1.0)
    window: tuple[float, float] | None = None

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in mm."""
        height, width = (size * edge for size, edge in zip(self.image.shape, self.pixel, strict=True))
        return height, width


@plain_style
def draw_overlays(rows: Sequence[Sequence[Overlay]], labels: Sequence[str] = (), title: str = "") -> bytes:
    """Returns slices in rows as a PNG; pixels keep their shape.

    Args:
        rows: of slices; a row may be shorter than others.
        labels: names of all labels, in the order of their colours, for the legend.
        title: above all.
    """
    columns = max(map(len, rows))
    shown = [overlay for row in rows for overlay in row]
    width = WIDTH / max(columns, 3)
    tallest = max(height / across for height, across in (overlay.extent for overlay in shown))
    lines = max((overlay.title.count("\n") + 1 for overlay in shown if overlay.title), default=0)
    height = len(rows) * (min(width * tallest, 2 * width) + 0.2 * lines + 0.1) + 0.3 * bool(title) + 0.35 * bool(labels)
    figure = new_figure(width * columns, height)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    colours = {label: LABEL_COLOURS[place % len(LABEL_COLOURS)] for place, label in enumerate(labels)}
    for line, row in zip(grid, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, overlay in zip(line, row, strict=False):
            _draw(axes, overlay, colours)
    if title:
        figure.suptitle(title, fontsize=11)
    handles: list[Line2D | Patch] = []
    if any(overlay.outlines for overlay in shown) and any(overlay.areas for overlay in shown):
        handles = [
            Line2D([], [], color="black", label="line: reference"),
            Patch(facecolor="black", alpha=0.45, label="area: prediction"),
        ]
    handles += [Patch(facecolor=colour, label=label) for label, colour in colours.items()]
    if handles:
        ncols = min(len(handles), math.ceil(2 * columns))
        figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    return to_png(figure)


def _draw(axes: Axes, overlay: Overlay, colours: Mapping[str, str]) -> None:
    height, width = overlay.extent
    where: dict[str, Any] = {"extent": (0.0, width, height, 0.0), "interpolation": "nearest"}
    low, high = overlay.window or np.percentile(overlay.image, (0.5, 99.5))
    axes.imshow(overlay.image, cmap="gray", vmin=low, vmax=high, **where)
    for label, mask in overlay.areas.items():
        tint = np.zeros((*mask.shape, 4))
        tint[mask] = to_rgba(colours[label], 0.5)
        axes.imshow(tint, **where)
    rows, columns = overlay.image.shape
    x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    for label, mask in overlay.outlines.items():
        if mask.any():
            axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[colours[label]], linewidths=1.6)
    if overlay.heat is not None and overlay.heat.max() > 0:
        share = overlay.heat / overlay.heat.max()
        axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * share, **where)
    axes.set_title(overlay.title, fontsize=10, loc="left")
