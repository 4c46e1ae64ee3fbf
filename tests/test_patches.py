"""The patches apply to the nnU-Net version that they name."""

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import nnunetv2
import pytest

PATCHES = sorted((Path(__file__).parents[1] / "patches").glob("*.patch"))


def test_there_are_patches_and_the_readme_lists_them():
    names = [path.name for path in PATCHES]
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
    listed = re.findall(r"^\| `(\d{4}-[^`]+\.patch)`", (PATCHES[0].parent / "README.md").read_text(), re.MULTILINE)
    assert listed == names


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs the program patch")
@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_applies_to_the_version_it_names(path, tmp_path):
    (named,) = re.findall(r"^nnU-Net (\d+\.\d+\.\d+):", path.read_text())
    if version("nnunetv2") != named:
        pytest.skip(f"made for nnU-Net {named}, installed is {version('nnunetv2')}")
    root = Path(nnunetv2.__file__).parents[1]
    targets = re.findall(r"^\+\+\+ b/(\S+)$", path.read_text(), re.MULTILINE)
    assert targets
    for target in targets:
        (tmp_path / target).parent.mkdir(parents=True)
        shutil.copy(root / target, tmp_path / target)
    subprocess.run(["patch", "-p1", "--fuzz=0", "--input", path], cwd=tmp_path, check=True, capture_output=True)
    for target in targets:
        assert (tmp_path / target).read_text() != (root / target).read_text()
        compile((tmp_path / target).read_text(), target, "exec")
