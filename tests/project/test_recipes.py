"""The pages on other people's tools, run as they stand on a tiny model."""

import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from model_folders import programs_on_a_page, write_images, write_model

pytestmark = pytest.mark.nightly


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, ["case"])
    return write_model(tmp_path, "nnUNetTrainerSALSTM_A", {"module": "A"})


def test_class_activation_maps_before_and_after_a_block(model, tmp_path):
    packages = ["nnunetv2-cam==0.1.6.1", "grad-cam", "ttach", "opencv-python-headless"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "packages"]
    subprocess.run([*install, *packages], check=True)
    (program,) = programs_on_a_page("class-activation-maps.md", model)
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packages"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "program.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("encoder.stages.1 ", "salstm.1 "))]
    assert len(lines) == 2
    assert all("(1, 9, 30, 22) from 0.0 to" in line for line in lines)
    assert lines[0].split()[-1] != lines[1].split()[-1]  # the block adds something
    assert len(list((tmp_path / "maps" / "salstm.1").rglob("*.png"))) == 9


def test_monais_sliding_window_predicts_a_case(model, tmp_path):
    pytest.importorskip("monai")
    # Of the patch's size: one window, in which nothing but the network counts.
    write_images(tmp_path, ["case"], size=(8, 24, 16))
    (program,) = programs_on_a_page("monai.md", model)
    names = {}
    exec(program, names)
    predictor = names["predictor"]
    # nnU-Net keeps weighted logits in float16, in which those of the corners vanish.
    predictor.use_mirroring = predictor.use_gaussian = False
    theirs = predictor.predict_sliding_window_return_logits(names["torch"].from_numpy(names["array"]))
    np.testing.assert_allclose(names["logits"], theirs.float(), rtol=2e-3, atol=2e-3 * float(theirs.abs().max()))
    image, predicted = (sitk.ReadImage(str(tmp_path / name)) for name in ("case_0000.nii.gz", "case.nii.gz"))
    assert (predicted.GetSize(), predicted.GetSpacing()) == (image.GetSize(), image.GetSpacing())
    assert {0, 1, 2} >= set(np.unique(sitk.GetArrayFromImage(predicted))) > {0}
