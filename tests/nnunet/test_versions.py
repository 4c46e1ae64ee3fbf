"""Older releases of nnU-Net, by the plans route: they know nothing of trainers from elsewhere."""

import json
import subprocess
import sys

import pytest
from conftest import write_dataset
from nnunet_host import Host
from releases import release

from nnunetv2_salstm.plans import salstm_of

pytestmark = pytest.mark.nightly

ADD_BLOCKS = """
import json, sys
from pathlib import Path
import nnunetv2
from nnunetv2_salstm.plans import add_to_plans

folder, release = Path(sys.argv[1]), Path(sys.argv[2])
assert release in Path(nnunetv2.__file__).parents
plans = json.loads((folder / "nnUNetPlans.json").read_text())
for name in ("2d", "3d_fullres"):
    architecture = plans["configurations"][name]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [8, 8, 16, 16, 16][: architecture["n_stages"]]
    plans = add_to_plans(plans, name, {"module": "B"})
plans["plans_name"] = "nnUNetPlansSALSTM_B"
(folder / "nnUNetPlansSALSTM_B.json").write_text(json.dumps(plans))
"""


@pytest.mark.parametrize("wanted", ["2.6.4", "2.7.0"])
def test_plans_trains_and_predicts(wanted, tmp_path, tmp_path_factory):
    older = release(tmp_path_factory.getbasetemp() / "releases", wanted)
    host = Host(tmp_path / "nnunet", older)
    folder = host.root / "raw" / "Dataset994_Older"
    write_dataset(folder)
    host.plan(994)
    preprocessed = host.root / "preprocessed" / folder.name
    added = subprocess.run(
        [sys.executable, "-c", ADD_BLOCKS, preprocessed, older], env=host.environment(), capture_output=True, text=True
    )
    assert added.returncode == 0, added.stderr
    model = "-tr nnUNetTrainer_1epoch -p nnUNetPlansSALSTM_B -device cpu"  # a stock trainer
    output = tmp_path / "predicted"
    printed = host.run(
        "nnUNetv2_preprocess -d 994 -c 3d_fullres -np 1",
        f"nnUNetv2_train 994 3d_fullres 0 {model}",
        f"nnUNetv2_predict -i {folder / 'imagesTs'} -o {output} -d 994 -c 3d_fullres -f 0 {model} -npp 1 -nps 1",
        "nnUNetv2_train 994 3d_fullres 0 -tr nnUNetTrainer_1epoch -p nnUNetPlansSALSTM_B -device cpu --val",
    )
    assert "Mean Validation Dice" in printed
    assert len(list(output.glob("*.nii.gz"))) == 1
    trained = host.model(994, "nnUNetTrainer_1epoch", "nnUNetPlansSALSTM_B", "3d_fullres")
    assert salstm_of(json.loads((trained / "plans.json").read_text()), "3d_fullres")["module"] == "B"
