"""The stock commands on real volumes: twelve Hippocampus cases, planned, trained and predicted."""

import json
import shutil

import pytest
import SimpleITK as sitk
import torch
from conftest import run_command
from places import REAL_DATA

from nnunetv2_salstm.plans import salstm_of

DATASET = "Dataset004_Hippocampus"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.real_data,
    pytest.mark.skipif(
        not (REAL_DATA / DATASET / "dataset.json").is_file(),
        reason=f"no {DATASET} in {REAL_DATA}; SALSTM_REAL_DATA names the folder that holds it",
    ),
]


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory):
    """A workspace with twelve training cases and one to predict, planned and preprocessed for 3d_fullres."""
    root = tmp_path_factory.mktemp("real")
    source, target = REAL_DATA / DATASET, root / "raw" / DATASET
    (root / "results").mkdir()
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (target / name).mkdir(parents=True)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))[:13]
    for case in cases[:12]:
        shutil.copyfile(source / "imagesTr" / f"{case}_0000.nii.gz", target / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(source / "labelsTr" / f"{case}.nii.gz", target / "labelsTr" / f"{case}.nii.gz")
    shutil.copyfile(source / "imagesTr" / f"{cases[12]}_0000.nii.gz", target / "imagesTs" / f"{cases[12]}_0000.nii.gz")
    description = json.loads((source / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps({**description, "numTraining": 12}))
    run_command(root, "nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "3d_fullres", "-np", 2)
    return root, sitk.ReadImage(str(source / "labelsTr" / f"{cases[12]}.nii.gz"))


def test_hippocampus(hippocampus, tmp_path):
    root, reference = hippocampus
    trainer = "nnUNetTrainerSALSTM_B_2epochs_10its_seed0"
    run_command(root, "nnUNetv2_train", 4, "3d_fullres", 0, "-tr", trainer, "-device", "cpu")
    model = root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [40, 56, 40]
    assert salstm_of(plans, "3d_fullres")["module"] == "B"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    # Twenty iterations are too few to find a hippocampus, and enough to see the loss fall by half and the blocks train.
    first, last = checkpoint["logging"]["train_losses"]
    assert last < first / 2
    weights = checkpoint["network_weights"]
    trained = [value.abs().max() for name, value in weights.items() if name.endswith("layer.layer.conv.weight")]
    assert len(trained) == 4
    assert all(largest > 0 for largest in trained)

    arguments = ["-d", 4, "-c", "3d_fullres", "-f", 0, "-tr", trainer, "-device", "cpu", "--disable_tta"]
    run_command(root, "nnUNetv2_predict", "-i", root / "raw" / DATASET / "imagesTs", "-o", tmp_path, *arguments)
    (prediction,) = tmp_path.glob("*.nii.gz")
    predicted = sitk.ReadImage(str(prediction))
    assert predicted.GetSize() == reference.GetSize()
    assert predicted.GetSpacing() == reference.GetSpacing()
