"""The documentation builds as a site, without a warning, and needs no server."""

import re
from pathlib import Path

import pytest
from places import ROOT


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
        ("nn", ["SALSTM", "SliceSALSTM", "SALSTMBlock", "FrameBlock", "ConvLSTMCell", "StateAttention"]),
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


def test_nothing_is_fetched_when_it_is_read(site):
    elsewhere = re.compile(r'(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)="(?:https?:)?//[^"]*')
    for file in site.rglob("*.html"):
        assert elsewhere.findall(file.read_text()) == [], file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", file.read_text()), file.name
