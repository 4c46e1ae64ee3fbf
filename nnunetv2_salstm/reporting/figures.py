"""The style of all figures."""

import io

from matplotlib import rc_context, style
from matplotlib.figure import Figure

# For functions that draw, whatever else the process has set: nnU-Net's training enlarges the fonts of all figures.
plain_style = style.context("default")
# Told apart also by readers who see red and green alike.
COLOURS = ("#3b6fb6", "#d98032", "#5d9e5a", "#a0569a", "#8a8a8a")
PNG_DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches that can be drawn without a display."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure) -> str:
    """Returns the figure as an element for a page; equal figures make equal ones."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "nnunetv2_salstm"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG; equal figures make equal ones."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return file.getvalue()
