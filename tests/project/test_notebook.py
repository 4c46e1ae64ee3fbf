"""examples/notebooks/quickstart.ipynb: it runs as it is, and its committed outputs tell nothing of a machine."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from places import ROOT

FILE = ROOT / "examples" / "notebooks" / "quickstart.ipynb"


def outputs(notebook):
    """Returns all that the cells printed."""
    return "".join("".join(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", ()))


def test_the_committed_notebook_was_run_and_names_no_place():
    notebook = nbformat.read(FILE, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    printed = outputs(notebook)
    assert "SA-LSTM: module A on the outputs of encoder stages" in printed
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    assert not re.search(r"/(home|root|tmp|work|Users)/|https?://(?!github|doi|arxiv)", printed)
    assert FILE.stat().st_size < 1_000_000
    for target in re.findall(r"\]\((\.\./[^)#]+)", FILE.read_text()):
        assert (FILE.parent / target).is_file(), target


@pytest.mark.nightly
def test_it_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("SALSTM_QUICKSTART", "quick")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    notebook = nbformat.read(FILE, 4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = outputs(notebook)
    assert "These networks: " in printed
    assert "its blocks do nothing" in printed or "without its blocks this model" in printed
