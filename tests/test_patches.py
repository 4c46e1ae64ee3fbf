"""The patches apply to the nnU-Net version that they name."""

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from releases import release

PATCHES = sorted((Path(__file__).parents[1] / "patches").glob("*.patch"))


def test_there_are_patches_and_the_readme_lists_them():
    names = [path.name for path in PATCHES]
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
    listed = re.findall(r"^\| `(\d{4}-[^`]+\.patch)`", (PATCHES[0].parent / "README.md").read_text(), re.MULTILINE)
    assert listed == names


def applied_to(path: Path) -> str:
    (named,) = re.findall(r"^nnU-Net (\d+\.\d+\.\d+):", path.read_text())
    return named


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs the program patch")
@pytest.mark.parametrize(
    "path",
    [
        # Other releases than the installed one are fetched.
        pytest.param(path, id=path.stem, marks=[] if applied_to(path) == version("nnunetv2") else pytest.mark.slow)
        for path in PATCHES
    ],
)
def test_the_program_patch_applies_it_to_the_version_it_names(path, tmp_path, tmp_path_factory):
    root = release(tmp_path_factory.getbasetemp() / "releases", applied_to(path))
    targets = re.findall(r"^\+\+\+ b/(\S+)$", path.read_text(), re.MULTILINE)
    assert targets
    for target in targets:
        (tmp_path / target).parent.mkdir(parents=True)
        shutil.copy(root / target, tmp_path / target)
    subprocess.run(["patch", "-p1", "--fuzz=0", "--input", path], cwd=tmp_path, check=True, capture_output=True)
    for target in targets:
        assert (tmp_path / target).read_text() != (root / target).read_text()
        compile((tmp_path / target).read_text(), target, "exec")
