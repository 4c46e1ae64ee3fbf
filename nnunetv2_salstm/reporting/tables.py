"""Tables from data frames, in Markdown that is also readable in a terminal, and in LaTeX."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas

MISSING = "-"
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", **{c: f"\\{c}" for c in "&%$#_{}"}
}  # fmt: skip


def p_value(value: float | None) -> str:
    """Returns a probability for readers."""
    if value is None or pandas.isna(value):
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


@dataclass(frozen=True)
class Table:
    """A table to be shown.

    Attributes:
        frame: its cells, text or numbers; a missing value is shown as "-".
        caption: what it shows.
        formats: by column, how its numbers become text: a format such as ".3f", or a function.
        bold: cells that stand out, as the number of the row and the column.
        text_columns: how many columns hold text, from the left; the others are aligned to the right.
    """

    kind: ClassVar[str] = "table"
    frame: pandas.DataFrame
    caption: str = ""
    formats: Mapping[str, str | Callable[[Any], str]] = field(default_factory=dict)
    bold: Collection[tuple[int, str]] = ()
    text_columns: int = 1

    @property
    def head(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.frame.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text."""
        columns = [[self._text(name, value) for value in self.frame[name].tolist()] for name in self.frame.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def is_bold(self, row: int, column: int) -> bool:
        """Says whether the cell stands out."""
        return (row, self.frame.columns[column]) in self.bold

    def starts_group(self, row: int) -> bool:
        """Says whether the row begins another group, of rows that agree in the first column."""
        first = self.frame.iloc[:, 0]
        return row > 0 and not first.is_unique and first.iloc[row] != first.iloc[row - 1]

    def _text(self, column: str, value: Any) -> str:
        if pandas.isna(value):
            return MISSING
        show = self.formats.get(column, "g" if isinstance(value, float) else "")
        return show(value) if callable(show) else format(value, show)


def best_cells(frame: pandas.DataFrame, lower: Collection[str] = ()) -> set[tuple[int, str]]:
    """Returns, for `Table.bold`, the cells with the best value of each column; ties are all best.

    Args:
        frame: of numbers.
        lower: columns of which the smallest value is best, not the largest.
    """
    best = {str(name): frame[name].min() if name in lower else frame[name].max() for name in frame.columns}
    return {(row, name) for name, top in best.items() for row, value in enumerate(frame[name]) if value == top}


def markdown_table(table: Table) -> str:
    """Returns the table in Markdown, its columns aligned also as plain text; without its caption."""
    cells = [
        [f"**{cell}**" if table.is_bold(place, column) else cell for column, cell in enumerate(row)]
        for place, row in enumerate(table.rows)
    ]
    # A bar would end its cell, and a line's end its row.
    rows = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (table.head, *cells)]
    # A rule of one dash is not a rule for every reader of Markdown.
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    left = [column < table.text_columns for column in range(len(widths))]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for text, width in zip(left, widths, strict=True)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        aligned = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, left, strict=True)
        ]
        lines.append(f"| {' | '.join(aligned)} |")
    return "\n".join(lines)


def latex_table(table: Table, label: str) -> str:
    r"""Returns the table as a float in LaTeX, for \usepackage{booktabs}."""
    frame = pandas.DataFrame(table.rows, columns=table.head)
    style = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    for row, name in table.bold:
        style = style.set_properties(subset=([row], [name]), textbf="--rwrap")
    columns = "".join("l" if column < table.text_columns else "r" for column in range(len(table.head)))
    caption = _latex(table.caption)
    text: str = style.to_latex(
        column_format=columns, hrules=True, caption=caption, label=label, position_float="centering"
    )
    return text


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
