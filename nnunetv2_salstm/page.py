"""Pages for a browser that need no other file and no network."""

import io
from collections.abc import Collection, Sequence
from html import escape

from matplotlib import rc_context, style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #222; }
figure { margin: 1.5rem 0; } figure svg, figure img { max-width: 100%; height: auto; }
figcaption { font-size: 14px; color: #555; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th.text, td.text { text-align: left; } tr.first td { border-top: 2px solid #999; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; } footer, .notes { font-size: 14px; }
.warning { border-left: 4px solid #d98032; background: #fdf3e8; padding: .5rem 1rem; }
.verdict { font-size: 18px; border-left: 4px solid #3b6fb6; background: #eef3fa; padding: .5rem 1rem; }
.verdict { list-style: none; }
.verdict li + li { margin-top: .5rem; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } figure, tr { break-inside: avoid; }
 table { font-size: 8px; } .table { overflow: visible; } th, td { padding: .15rem .25rem; } }
"""
# For functions that draw, whatever else the process has set: nnU-Net's training enlarges the fonts of all figures.
plain_style = style.context("default")
# Told apart also by readers who see red and green alike.
COLOURS = ("#3b6fb6", "#d98032", "#5d9e5a", "#a0569a", "#8a8a8a")


def html_page(title: str, parts: Sequence[str]) -> str:
    """Returns the page with the title and the parts below each other."""
    return "\n".join([
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Browsers ask for an icon otherwise.
        '<link rel="icon" href="data:,">',
        f"<style>{STYLE}</style></head><body>",
        *(part for part in parts if part),
        "</body></html>",
        "",
    ])  # fmt: skip


def html_table(rows: Sequence[Sequence[str]], text_columns: int = 1, strong: Collection[tuple[int, int]] = ()) -> str:
    """Returns the table; its first row is the head, a line separates rows that differ in the first column.

    Args:
        rows: of cells.
        text_columns: how many columns hold text, from the left.
        strong: row and column of the cells that stand out.
    """
    lines = []
    for place, row in enumerate(rows):
        tag = "td" if place else "th"
        cells = [
            f"<{tag}{' class=text' if column < text_columns else ''}>"
            f"{f'<strong>{escape(cell)}</strong>' if (place, column) in strong else escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        ]
        first = place > 0 and (place == 1 or rows[place - 1][0] != row[0])
        lines.append(f"<tr{' class=first' if first else ''}>{''.join(cells)}</tr>")
    return f'<div class="table"><table>{"".join(lines)}</table></div>'


def html_list(sentences: Sequence[str], kind: str = "notes") -> str:
    """Returns the sentences as a list, nothing without any."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def html_warning(title: str, sentences: Sequence[str]) -> str:
    """Returns what a reader must know before anything else, nothing without a sentence."""
    return f'<div class="warning"><strong>{escape(title)}</strong>{html_list(sentences)}</div>' if sentences else ""


def html_footer(command: str, made_with: dict[str, str | int]) -> str:
    """Returns what a page was made by and with."""
    versions = escape(", ".join(f"{name}: {value}" for name, value in made_with.items()))
    return f"<footer><p>Made by <code>{escape(command)}</code></p><p>{versions}</p></footer>"


def html_figure(picture: str, caption: str = "") -> str:
    """Returns a picture, SVG or an img element, with its caption; nothing without a picture."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{picture}{below}</figure>" if picture else ""


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches that can be drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure) -> str:
    """Returns the figure as an element for a page; equal figures make equal ones."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "nnunetv2_salstm"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
