"""A document of text, tables and figures, and how it is shown in a terminal, in Markdown and in a browser.

Texts may use three marks of Markdown: `code`, **strong** and [text](address). Cells of tables are plain.
"""

import base64
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from markupsafe import Markup, escape

from nnunetv2_salstm.reporting.tables import Table, markdown_table

_MARKS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*|\[(?P<text>[^\]]+)\]\((?P<address>[^)\s]+)\)")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences in a list; `highlight` is for the few that say what was found."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]
    highlight: bool = False


@dataclass(frozen=True)
class Warnings:
    """What a reader must know before believing the rest; nothing without a sentence."""

    kind: ClassVar[str] = "warnings"
    title: str
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Lines that are shown as they are."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Figure:
    """A picture, SVG or PNG; a terminal does not show it, Markdown only if it is also a file.

    Attributes:
        svg: an svg element, see `reporting.figures.to_svg`.
        png: bytes of a file.
        caption: what it shows.
        alt: what it shows, for those who cannot see it; the caption by default.
        file: address of the picture beside the document.
    """

    kind: ClassVar[str] = "figure"
    svg: str = ""
    png: bytes = b""
    caption: str = ""
    alt: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.svg) == bool(self.png):
            raise ValueError("a figure needs either svg or png")

    @property
    def description(self) -> str:
        """What it shows, in plain words."""
        return self.alt or _plain(self.caption)

    @property
    def data(self) -> str:
        """The PNG as an address that needs no file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """Blocks below a heading; a folded one opens with a click, and a terminal leaves it out."""

    kind: ClassVar[str] = "section"
    title: str
    blocks: Sequence["Block"]
    folded: bool = False


Block = Text | Bullets | Warnings | Code | Table | Figure | Section


@dataclass(frozen=True)
class Document:
    """What is shown of a result.

    Attributes:
        title: of the whole.
        blocks: in order.
        footer: paragraphs at the end, which a terminal leaves out, e.g. of `made_with`.
    """

    title: str
    blocks: Sequence[Block]
    footer: Sequence[str] = ()


def made_with(command: str, *about: Mapping[str, str | int]) -> list[str]:
    """Returns a footer: the command, and versions and hardware by name."""
    known = ", ".join(f"{name}: {value}" for values in about for name, value in values.items())
    return [f"Made by `{command}`", *([known] if known else [])]


def picture_files(blocks: Sequence[Block]) -> dict[str, bytes]:
    """Returns the pictures that are also files, by their addresses beside the document."""
    found: dict[str, bytes] = {}
    for block in blocks:
        if isinstance(block, Figure) and block.file:
            found[block.file] = block.png or block.svg.encode()
        elif isinstance(block, Section):
            found |= picture_files(block.blocks)
    return found


def to_terminal(document: Document, width: int | None = None) -> str:
    """Returns the document as plain text without figures, folded sections and footer.

    Args:
        document: to show.
        width: characters in a line of text, by default those of the terminal; tables keep their rows in one line.
    """
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 120)
    parts = [f"{document.title}\n{'=' * len(document.title)}", *_terminal(document.blocks, width)]
    return "\n\n".join(parts) + "\n"


def to_markdown(document: Document) -> str:
    """Returns the document in Markdown."""
    parts = [f"# {document.title}", *_markdown(document.blocks, 2)]
    if document.footer:
        parts += ["---", *document.footer]
    return "\n\n".join(parts) + "\n"


def to_html(document: Document) -> str:
    """Returns the document as a page that needs no other file and no network; equal documents make equal pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nnunetv2_salstm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = _inline_html
    return environment.get_template("base.html").render(document=document)


def _terminal(blocks: Sequence[Block], width: int) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            parts.append(textwrap.fill(_plain(block.text), width, break_on_hyphens=False))
        elif isinstance(block, Bullets) and block.items:
            parts.append(_terminal_list(block.items, width))
        elif isinstance(block, Warnings) and block.items:
            parts.append(f"{block.title}:\n{_terminal_list(block.items, width)}")
        elif isinstance(block, Code):
            parts.append(block.text.rstrip("\n"))
        elif isinstance(block, Table):
            caption = f"{textwrap.fill(_plain(block.caption), width)}\n\n" if block.caption else ""
            parts.append(caption + markdown_table(block))
        elif isinstance(block, Section) and not block.folded and (inside := _terminal(block.blocks, width)):
            parts += [f"{block.title}\n{'-' * len(block.title)}", *inside]
    return parts


def _terminal_list(items: Sequence[str], width: int) -> str:
    wrapper = textwrap.TextWrapper(width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(wrapper.fill(_plain(item)) for item in items)


def _markdown(blocks: Sequence[Block], level: int) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Bullets) and block.items:
            parts.append(_markdown_list(block.items))
        elif isinstance(block, Warnings) and block.items:
            parts += [f"**{block.title}:**", _markdown_list(block.items)]
        elif isinstance(block, Code):
            parts.append(f"```\n{block.text.rstrip()}\n```")
        elif isinstance(block, Table):
            parts += [block.caption] if block.caption else []
            parts.append(markdown_table(block))
        elif isinstance(block, Figure) and block.file:
            parts.append(f"![{block.description}]({quote(block.file)})")
            parts += [block.caption] if block.caption else []
        elif isinstance(block, Section):
            parts += [f"{'#' * level} {block.title}", *_markdown(block.blocks, level + 1)]
    return parts


def _markdown_list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _inline_html(text: str) -> Markup:
    """Returns the text with its marks as elements."""
    parts, end = [], 0
    for mark in _MARKS.finditer(text):
        parts.append(escape(text[end : mark.start()]))
        end = mark.end()
        if mark["code"]:
            parts.append(Markup("<code>{}</code>").format(mark["code"]))
        elif mark["strong"]:
            parts.append(Markup("<strong>{}</strong>").format(_inline_html(mark["strong"])))
        else:
            parts.append(Markup('<a href="{}">{}</a>').format(mark["address"], mark["text"]))
    return Markup("").join([*parts, escape(text[end:])])


def _plain(text: str) -> str:
    """Returns the text without its marks, but with addresses."""

    def shown(mark: re.Match[str]) -> str:
        return mark["code"] or mark["strong"] or f"{mark['text']} ({mark['address']})"

    return _MARKS.sub(shown, text)
