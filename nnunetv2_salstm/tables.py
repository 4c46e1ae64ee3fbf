"""Tables and lists in Markdown that are also readable in a terminal."""

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Returns the table; the first row is its head, all but the first `text_columns` columns are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if column < text_columns else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = zip(row, widths, strict=True)
        aligned = [c.ljust(w) if column < text_columns else c.rjust(w) for column, (c, w) in enumerate(cells)]
        lines.append(f"| {' | '.join(aligned)} |")
    return "\n".join(lines)


def markdown_list(sentences: Sequence[str]) -> str:
    """Returns the sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
