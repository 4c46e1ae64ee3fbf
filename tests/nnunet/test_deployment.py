"""docs/how-to/deploy.md: a model folder predicts from Python, and the container keeps to what the page says."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
from model_folders import programs_on_a_page, write_images, write_model
from places import ROOT

HOW_TO = ROOT / "docs" / "how-to" / "deploy.md"


@pytest.mark.nightly
def test_the_how_to_predicts_a_case(tmp_path, monkeypatch):
    model = write_model(tmp_path, "nnUNetTrainerSALSTM_A", {"module": "A"})
    write_images(tmp_path, ["case"])
    monkeypatch.chdir(tmp_path)
    (program,) = programs_on_a_page(HOW_TO.name, model)
    exec(program, {})
    image, predicted = (sitk.ReadImage(str(tmp_path / name)) for name in ("case_0000.nii.gz", "case.nii.gz"))
    assert (predicted.GetSize(), predicted.GetSpacing()) == (image.GetSize(), image.GetSpacing())
    assert {0, 1, 2} >= set(np.unique(sitk.GetArrayFromImage(predicted))) > {0}


def test_the_container_is_not_root_and_the_page_shows_its_lines():
    dockerfile = (ROOT / "Dockerfile").read_text()
    after = dockerfile.split("\nUSER ")[-1]
    assert re.match(r"[1-9]\d*\n", after)
    assert not re.search(r"^(RUN|COPY|ADD) ", after, re.MULTILINE)
    builds = re.findall(r"^#\s+(docker build .*)$", dockerfile, re.MULTILINE)
    assert len(builds) == 2
    assert all(line in HOW_TO.read_text() for line in builds)
