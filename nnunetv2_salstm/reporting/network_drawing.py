"""A picture of a planned network with its blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.networks import cell_size
from nnunetv2_salstm.plans import channels_per_stage
from nnunetv2_salstm.reporting.figures import COLOURS, new_figure, plain_style, to_svg

# Inches: the boxes, the way from a stage to the next, how far a stage is moved in, and the room for the blocks.
WIDTH, HEIGHT, DOWN, INDENT, MIDDLE = 1.8, 0.5, 0.85, 0.4, 3.2
STOCK_COLOUR, BLOCK_COLOUR = "#e4e8ee", "#f6dfcb"
MODULES = {"A": "SALSTM (A)", "B": "LSTMSA (B)", "bdclstm": "BDC-LSTM", "conv": "convolutions"}
SEQUENCES = {
    "slices": "each slice with its neighbours along the first axis",
    "repeat": "each image with itself",
    "frames": "each frame with the previous and the next one",
}


@plain_style
def draw_network(configuration: Mapping[str, Any], name: str) -> str:
    """Returns an SVG of a planned network: stages, their channels and sizes in voxels, and where the blocks sit.

    Args:
        configuration: of nnU-Net plans with SA-LSTM blocks, nothing left to inherit.
        name: of the configuration.
    """
    architecture = configuration["architecture"]
    arguments = architecture["arch_kwargs"]
    config = SALSTMConfig.from_json(arguments["salstm"])
    bottleneck = arguments["n_stages"] - 1
    channels = channels_per_stage(arguments)
    sizes = _sizes(configuration["patch_size"], arguments["strides"])

    middle = INDENT * bottleneck + WIDTH  # the left end of the room for the blocks
    width = 2 * middle + MIDDLE
    figure = new_figure(width + 0.4, DOWN * bottleneck + 1.7)
    figure.set_layout_engine("none")  # one inch of the figure is one unit of the drawing
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.2, width + 0.2), ylim=(-DOWN * bottleneck - 0.45, 1.25))
    axes.axis("off")
    network = architecture["network_class_name"].rpartition(".")[2]
    axes.text(0, 1.0, f"{name}: {network}", fontsize=13, fontweight="bold", va="center")
    batch = f"{configuration['batch_size']} patches of {_size(configuration['patch_size'])} voxels"
    axes.text(0, 0.7, f"{batch}; the blocks see {SEQUENCES[config.sequence]}", fontsize=10, va="center")

    for stage, size in enumerate(sizes):
        y = -DOWN * stage
        encoder, decoder = INDENT * stage, width - WIDTH - INDENT * stage
        text = f"{channels[stage]} channels\n{_size(size)}"
        _box(axes, encoder, y, text, STOCK_COLOUR)
        way = [(encoder + WIDTH, y), (decoder, y)]
        if stage == bottleneck:
            above = decoder + INDENT + WIDTH / 2
            way[1:] = [(above, y), (above, y + DOWN - HEIGHT / 2)]
        else:
            _box(axes, decoder, y, text, STOCK_COLOUR)
            x = encoder + INDENT + WIDTH / 2
            _arrow(axes, [(x, y - HEIGHT / 2), (x, y - DOWN + HEIGHT / 2)])
        if 0 < stage < bottleneck:
            x = decoder + INDENT + WIDTH / 2
            _arrow(axes, [(x, y + HEIGHT / 2), (x, y + DOWN - HEIGHT / 2)])
        _arrow(axes, way)
        if stage in config.stages(arguments["n_stages"]):
            cell = cell_size([tuple(stride) for stride in arguments["strides"]], stage, config.grid)
            cells = [math.ceil(edge / length) for edge, length in zip(size, cell, strict=True)]
            text = f"{MODULES[config.module]}, {config.hidden_channels(channels[stage])} channels\n{_size(cells)} cells"
            _box(axes, (width - MIDDLE) / 2 + 0.4, y, text, BLOCK_COLOUR, MIDDLE - 0.8)
    return to_svg(figure)


def _sizes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Returns the size of each stage's feature maps in voxels."""
    sizes, size = [], tuple(patch_size)
    for stride in strides:
        size = tuple(edge // step for edge, step in zip(size, stride, strict=True))
        sizes.append(size)
    return sizes


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = WIDTH) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y - HEIGHT / 2),
            width,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour,
            edgecolor="#8793a3" if colour == STOCK_COLOUR else COLOURS[1],
            zorder=2,
        )
    )
    axes.text(x + width / 2, y, text, fontsize=9, ha="center", va="center", zorder=3)


def _arrow(axes: Axes, way: Sequence[tuple[float, float]]) -> None:
    """Draws a line through the points with an arrow's head at its end."""
    colour, thickness = "#444444", 1.2
    axes.plot(*zip(*way[:-1], strict=True), color=colour, linewidth=thickness, zorder=1)
    look = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "color": colour, "linewidth": thickness}
    axes.annotate("", xy=way[-1], xytext=way[-2], arrowprops=look, zorder=1)


def _size(edges: Sequence[int]) -> str:
    return " x ".join(map(str, edges))
