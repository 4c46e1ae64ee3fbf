"""One document, three ways to show it."""

import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser

import pandas
import pytest

from nnunetv2_salstm.reporting.document import (
    Bullets,
    Code,
    Document,
    Figure,
    Section,
    Table,
    Text,
    Warnings,
    made_with,
    to_html,
    to_markdown,
    to_terminal,
)
from nnunetv2_salstm.reporting.figures import new_figure, plain_style, to_png, to_svg

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "img", "br"}


class Elements(HTMLParser):
    """The elements of a page, and that each is closed."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def count(self, tag):
        return sum(name == tag for name, _ in self.found)


@plain_style
def draw():
    figure = new_figure(3, 2)
    figure.subplots().plot([1, 2], [2, 1])
    return figure


@cache
def pictures():
    return to_svg(draw()), to_png(draw())


def document(title="Two <networks>"):
    svg, png = pictures()
    frame = pandas.DataFrame({"network": ["stock", "B"], "Dice": [0.91234, None], "parameters": [10, 12]})
    return Document(
        title,
        [
            Warnings("Not like for like", ["B trained **longer**"]),
            Warnings("Nothing", []),
            Bullets(["B is better than stock & quicker"], highlight=True),
            Text("Of `a<b>` and [the other page](other.html)."),
            Section(
                "Scores",
                [
                    Table(frame, "Means", formats={"Dice": ".3f"}, bold={(0, "Dice")}),
                    Figure(svg=svg, caption="A `line`", file="line.svg"),
                    Section("Within", [Figure(png=png, alt="another")]),
                ],
            ),
            Section("Details", [Code("key: 1\n  other: <2>\n")], folded=True),
        ],
        made_with("nnUNetv2_salstm x", {"torch": "2.1"}, {"threads": 2}),
    )


def test_terminal():
    assert to_terminal(document(), 30) == (
        "Two <networks>\n==============\n\n"
        "Not like for like:\n- B trained longer\n\n"
        "- B is better than stock &\n  quicker\n\n"
        "Of a<b> and the other page\n(other.html).\n\n"
        "Scores\n------\n\n"
        "Means\n\n"
        "| network |      Dice | parameters |\n"
        "| ------- | --------: | ---------: |\n"
        "| stock   | **0.912** |         10 |\n"
        "| B       |         - |         12 |\n"
    )


def test_markdown():
    assert to_markdown(document()) == (
        "# Two <networks>\n\n"
        "**Not like for like:**\n\n- B trained **longer**\n\n"
        "- B is better than stock & quicker\n\n"
        "Of `a<b>` and [the other page](other.html).\n\n"
        "## Scores\n\n"
        "Means\n\n"
        "| network |      Dice | parameters |\n"
        "| ------- | --------: | ---------: |\n"
        "| stock   | **0.912** |         10 |\n"
        "| B       |         - |         12 |\n\n"
        "![A line](line.svg)\n\nA `line`\n\n"
        "### Within\n\n"
        "## Details\n\n```\nkey: 1\n  other: <2>\n```\n\n"
        "---\n\nMade by `nnUNetv2_salstm x`\n\ntorch: 2.1, threads: 2\n"
    )


def test_page():
    page = to_html(document())
    elements = Elements(page)
    assert page.startswith("<!doctype html>\n")
    assert elements.count("svg") == elements.count("img") == elements.count("details") == elements.count("table") == 1
    assert "<title>Two &lt;networks&gt;</title>" in page
    assert "<h2>Scores</h2>" in page
    assert "<h3>Within</h3>" in page
    assert 'Of <code>a&lt;b&gt;</code> and <a href="other.html">the other page</a>.' in page
    assert '<td class="left">stock</td>' in re.sub(r"\s*\n\s*", "", page)
    assert "<td><strong>0.912</strong></td>" in page
    assert "  other: &lt;2&gt;\n" in page
    assert 'aria-label="A line"' in page
    assert '<img alt="another" src="data:image/png;base64,' in page
    assert "stock &amp; quicker" in page
    assert page.count('class="warning"') == 1


def test_page_needs_nothing_else():
    for _, attributes in Elements(to_html(document())).found:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:", "#")) or address == "other.html"
    assert "url(" not in re.sub(r"url\(#\w+\)", "", to_html(document()))


def test_equal_documents_make_equal_bytes():
    assert (to_svg(draw()), to_png(draw())) == pictures()
    for show in (to_terminal, to_markdown, to_html):
        assert show(document()) == show(document())
    assert to_html(document()) != to_html(document("Another"))


def test_a_figure_is_one_picture():
    with pytest.raises(ValueError, match="either svg or png"):
        Figure(caption="nothing")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.nightly
def test_page_does_not_scroll_sideways(tmp_path):
    """Wide tables and code scroll within their boxes, long names break."""
    wide = pandas.DataFrame(
        {f"nnUNetTrainerSALSTM_B_100epochs_seed{n}": ["0.9123 (0.0012 / 0.0034)"] for n in range(12)}
    )
    name = "nnUNetTrainerSALSTMConvControl_100epochs_seed0" * 5
    shown = Document(
        name,
        [
            Text(f"Of `{name}`"),
            Bullets([name], highlight=True),
            Section(name, [Table(wide, name), Code(name), *document().blocks]),
            Section(name, [Table(wide)], folded=True),
        ],
        made_with(name),
    )
    measure = (
        "<script>document.title = `width ${document.documentElement.scrollWidth} of ${innerWidth}`</script></body>"
    )
    page = tmp_path / "page.html"
    page.write_text(to_html(shown).replace("</body>", measure))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--virtual-time-budget=5000"]
    command = [BROWSER, *options, "--enable-logging=stderr", f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    width, available = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", done.stdout).groups())
    assert width <= available <= 1280
    assert "CONSOLE" not in done.stderr
