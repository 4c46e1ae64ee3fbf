"""`convert` on samples of the real data sets, in their official layouts, and what nnU-Net plans for them."""

import json
from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from conftest import nnunet_variables, run_command
from PIL import Image
from places import REAL_DATA

from nnunetv2_salstm import cli
from nnunetv2_salstm.converters.pictures import RGB

ACDC, CVC, ISIC = "ACDC_official_layout", "CVC-ClinicDB_sample", "ISIC2018_sample"

pytestmark = [pytest.mark.nightly, pytest.mark.real_data]


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Converts a sample, and returns the raw dataset's folder and the lines of the summary."""
    for variable, folder in nnunet_variables(tmp_path).items():
        monkeypatch.setenv(variable, folder)
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()

    def run(data, sample, *arguments):
        if not (REAL_DATA / sample).is_dir():
            pytest.skip(f"no {sample} in {REAL_DATA}; SALSTM_REAL_DATA names the folder that holds it")
        assert cli.main(["convert", data, "-i", str(REAL_DATA / sample), "-np", "2", *arguments]) == 0
        (dataset,) = (tmp_path / "raw").iterdir()
        return dataset, capsys.readouterr().out.splitlines()

    return run


def plan(dataset):
    """Lets nnU-Net verify and plan the dataset, and returns the plans; preprocessing says nothing more of ours."""
    root = dataset.parents[1]
    arguments = ["-d", int(dataset.name[7:10]), "-npfp", 2, "--verify_dataset_integrity", "--no_pp"]
    output = run_command(root, "nnUNetv2_plan_and_preprocess", *arguments).stdout
    assert "mismatch" not in output.lower()
    return json.loads((root / "preprocessed" / dataset.name / "nnUNetPlans.json").read_text())


def test_acdc_with_neighbours(convert):
    dataset, summary = convert("acdc", ACDC, "--neighbours", "1")
    assert summary[1] == "Cases: 80 training cases of 40 patients"
    groups = {
        info.parent.name: info.read_text().split("Group:")[1].split()[0]
        for info in (REAL_DATA / ACDC / "training").glob("*/Info.cfg")
    }
    for fold in json.loads((dataset / "splits_final.json").read_text()):
        patients = {name[:10] for name in fold["val"]}
        assert not patients & {name[:10] for name in fold["train"]}
        # Eight patients of each group in five folds.
        assert set(Counter(groups[patient] for patient in patients).values()) <= {1, 2}
    for name in ("patient001_frame12", "patient099_frame01"):
        original = sitk.ReadImage(str(REAL_DATA / ACDC / "training" / name[:10] / f"{name}.nii.gz"))
        slices = sitk.GetArrayFromImage(original)
        current, previous, following = (
            sitk.ReadImage(str(dataset / "imagesTr" / f"{name}_000{index}.nii.gz")) for index in range(3)
        )
        np.testing.assert_array_equal(sitk.GetArrayFromImage(current), slices)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(previous)[1:], slices[:-1])
        np.testing.assert_array_equal(sitk.GetArrayFromImage(following)[:-1], slices[1:])
        assert following.GetSpacing() == original.GetSpacing()
    plans = plan(dataset)
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["ZScoreNormalization"] * 3


# Its two halves run in CI: ACDC with neighbours, and pictures of ISIC 2018.
@pytest.mark.nightly
def test_cvc_clinicdb_with_neighbours(convert):
    dataset, summary = convert("cvc-clinicdb", CVC, "--neighbours", "1")
    assert summary[1] == "Cases: 48 training cases of 2 sequences"
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert sorted(len(fold["val"]) for fold in folds) == [23, 25]
    for frame, previous, following in ((1, 1, 2), (10, 9, 11), (25, 24, 25), (104, 104, 105), (126, 125, 126)):
        for index, neighbour in enumerate((frame, previous, following)):
            written = np.asarray(Image.open(dataset / "imagesTr" / f"frame{frame:03d}_000{index}.png"))
            np.testing.assert_array_equal(written, tifffile.imread(REAL_DATA / CVC / "Original" / f"{neighbour}.tif"))
    plans = plan(dataset)
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["RGBTo01Normalization"] * 9


def test_isic2018(convert):
    dataset, summary = convert("isic2018", ISIC, "--max-size", "256")
    assert summary[1] == "Cases: 60 training cases"
    assert "Size: 256 x 256 pixels" in summary
    for label in (dataset / "labelsTr").iterdir():
        mask = REAL_DATA / ISIC / "ISIC2018_Task1_Training_GroundTruth" / f"{label.stem}_segmentation.png"
        share = (np.asarray(Image.open(mask)) > 127).mean()
        assert (np.asarray(Image.open(label)) == 1).mean() == pytest.approx(share, abs=0.01)
    description = json.loads((dataset / "dataset.json").read_text())
    assert tuple(description["channel_names"].values()) == RGB
    plans = plan(dataset)
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["RGBTo01Normalization"] * 3
