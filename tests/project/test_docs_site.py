"""The documentation builds as a site, without a warning, and needs no server."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

import nnunetv2_salstm.nn

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Looks at every page in a frame that is as wide as a small screen, and names what is cut off or has to be scrolled.
LOOK = """
<script>
addEventListener("load", () => setTimeout(() => {
    for (const frame of document.querySelectorAll("iframe")) {
        const content = frame.contentDocument.querySelector(".rst-content");
        const right = content.getBoundingClientRect().right;
        const wide = [...content.querySelectorAll("table, pre, img, pre code, .wy-table-responsive")].filter((part) =>
            part.getBoundingClientRect().right > right + 1 || (part.scrollWidth > part.clientWidth + 1 &&
                frame.contentWindow.getComputedStyle(part).overflowX != "visible"));
        const said = wide.map((part) => part.tagName + " " + part.textContent.trim().slice(0, 40));
        document.body.append(`<<${frame.getAttribute("src")}: ${said.join(", ")}>>`);
    }
}, 1000));
</script>
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    # Strict: a warning, such as of a link that leads nowhere or a page that no heading lists, is an error.
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def test_every_page_is_there_under_its_heading(site):
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert [page for page in sorted(pages) if not (site / page).is_file()] == []
    index = (site / "index.html").read_text()
    assert re.findall(r'class="caption"><span class="caption-text">(.*?)</span>', index) == [
        "Getting started",
        "How-to",
        "Reference",
        "Explanation",
    ]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("nn", nnunetv2_salstm.nn.__all__),
        ("networks", ["SALSTMPlainConvUNet", "SALSTMResidualEncoderUNet", "add_salstm"]),
        ("config", ["SALSTMConfig"]),
        ("plans", ["add_to_plans", "salstm_of"]),
        ("trainers", ["SALSTMTrainerMixin", "get_trainer"]),
    ],
)
def test_the_python_api_has_the_docstrings(site, page, names):
    text = (site / "reference" / "api" / f"{page}.html").read_text()
    for name in names:
        assert re.search(rf'<h\d id="nnunetv2_salstm\.{page}\.{name}"', text), name
    assert "Raises:" in text


def test_examples_are_code_and_signatures_are_whole(site):
    text = (site / "reference" / "api" / "nn.html").read_text()
    blocks = [html.unescape(re.sub("<[^>]*>", "", block)) for block in re.findall("<pre.*?</pre>", text, re.DOTALL)]
    documented = [nnunetv2_salstm.nn.SALSTM, nnunetv2_salstm.nn.SliceSALSTM, nnunetv2_salstm.nn.ConvLSTMCell]
    for documented_class in documented:
        example = re.findall(r"^ *(>>> .*)$", documented_class.__doc__, re.MULTILINE)
        assert any(all(line in block for line in example) for block in blocks), documented_class
    # One argument a line, however many there are.
    assert any(block.startswith("SALSTM(\n    in_channels: int,\n    hidden_channels: int,\n") for block in blocks)
    assert ">>>" not in re.sub("<pre.*?</pre>", "", text, flags=re.DOTALL).replace("&gt;", ">")


def test_internals_are_not_in_the_python_api(site):
    for page in (site / "reference" / "api").glob("*.html"):
        assert not re.search(r'<h\d id="[\w.]*\.(_\w+|reset_parameters|contribution|check)"', page.read_text()), (
            page.name
        )


@pytest.mark.nightly
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_nothing_is_wider_than_its_page(site, tmp_path):
    pages = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in sorted((ROOT / "docs").rglob("*.md"))]
    frames = "".join(f'<iframe style="width: 1300px; height: 900px" src="{page}"></iframe>' for page in pages)
    (site / "look.html").write_text(f"<body>{frames}{LOOK}</body>")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=9000", "--dump-dom", f"file://{site}/look.html"]
    seen = html.unescape(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)
    looked = dict(re.findall(r"<<([\w./-]+): ([^>]*)>>", seen.partition("</script>")[2]))
    assert looked == {str(page): "" for page in pages}


def test_nothing_is_fetched_when_it_is_read(site):
    elsewhere = re.compile(r'(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)="(?:https?:)?//[^"]*')
    for file in site.rglob("*.html"):
        assert elsewhere.findall(file.read_text()) == [], file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", file.read_text()), file.name
