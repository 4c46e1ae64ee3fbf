"""From a stock model to ours and between trainer and plans route, with nnU-Net's own commands."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import write_dataset
from nnunet_host import Host

from nnunetv2_salstm.plans import architecture_of

pytestmark = pytest.mark.nightly
NUMBER = 997
# nnU-Net's own trainer, shorter than any of its variants.
TRAIN = """
import sys, torch
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("997", "3d_fullres", 0, "nnUNetTrainer", sys.argv[1], device=torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 6, 1
trainer.run_training()
trainer.perform_actual_validation()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """nnU-Net with a tiny data set and a stock model trained on it by nnUNetTrainer."""
    host = Host(tmp_path_factory.mktemp("routes"))
    write_dataset(host.root / "raw" / f"Dataset{NUMBER}_Ellipsoids")
    host.plan(NUMBER)
    plans_file = host.root / "preprocessed" / f"Dataset{NUMBER}_Ellipsoids" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 8, 16, 16]
    plans_file.write_text(json.dumps(plans))
    host.run(f"nnUNetv2_preprocess -d {NUMBER} -c 3d_fullres -np 1")
    train(host, "nnUNetPlans")
    return host


def train(host, plans):
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, plans], cwd=host.root, env=host.environment(), text=True, capture_output=True
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]


def predict(host, trainer, plans, out):
    """Returns nnU-Net's command that predicts the test case."""
    images = host.dataset(NUMBER) / "imagesTs"
    return (
        f"nnUNetv2_predict -d {NUMBER} -tr {trainer} -p {plans} -c 3d_fullres -f 0 -i {images} -o {host.root / out} "
        "-device cpu -npp 1 -nps 1 --disable_tta --save_probabilities"
    )


def probabilities(folder):
    (file,) = folder.glob("*.npz")
    return np.load(file)["probabilities"]


def checkpoint(host, trainer, plans, name="checkpoint_final.pth"):
    return host.model(NUMBER, trainer, plans, "3d_fullres") / "fold_0" / name


def test_a_grafted_model_predicts_validates_and_goes_on(host):
    trainer = "nnUNetTrainerSALSTM_A_3epochs_2its"
    stock = checkpoint(host, "nnUNetTrainer", "nnUNetPlans")
    grafted = checkpoint(host, trainer, "nnUNetPlans")
    host.run(
        f"nnUNetv2_salstm graft {stock.parents[1]} -o results -tr {trainer}",
        predict(host, "nnUNetTrainer", "nnUNetPlans", "by_stock"),
        predict(host, trainer, "nnUNetPlans", "by_grafted"),
    )
    by_stock, by_grafted = probabilities(host.root / "by_stock"), probabilities(host.root / "by_grafted")
    assert len(np.unique(by_stock.argmax(0))) > 1 or by_stock.std() > 0.01  # not a trivial prediction
    assert np.array_equal(by_stock, by_grafted)
    (segmentation,) = (host.root / "by_grafted").glob("*.nii.gz")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(host.root / "by_stock" / segmentation.name)))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(segmentation))), expected)

    original = stock.parent / "validation" / "summary.json"
    shutil.copytree(stock.parents[1], host.root / "stock")
    options = f"{NUMBER} 3d_fullres 0 -tr {trainer} -device cpu"
    host.run(f"nnUNetv2_train {options} --val")
    validated = json.loads((grafted.parent / "validation" / "summary.json").read_text())
    assert validated["foreground_mean"] == json.loads(original.read_text())["foreground_mean"]

    weights = torch.load(grafted, weights_only=False)["network_weights"]
    printed = host.run(f"nnUNetv2_train {options} --c")
    assert "Epoch 2" in printed
    assert "Epoch 1" not in printed
    after = torch.load(grafted, weights_only=False)
    assert after["current_epoch"] == 3
    assert len(after["logging"]["train_losses"]) == 3
    moved = [key for key in weights if key.startswith("salstm.") and ".layer.conv.weight" in key]
    assert moved
    assert all(not torch.equal(after["network_weights"][key], weights[key]) for key in moved)


def test_a_grafted_checkpoint_starts_a_new_training(host):
    trainer = "nnUNetTrainerSALSTM_B_1epochs_1its"
    stock = checkpoint(host, "nnUNetTrainer", "nnUNetPlans")
    out = host.root / "grafted"
    grafted = out / host.dataset(NUMBER).name / f"{trainer}__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
    printed = host.run(
        f"nnUNetv2_salstm graft {stock} -o {out} -tr {trainer}",
        f"nnUNetv2_train {NUMBER} 3d_fullres 0 -tr {trainer} -device cpu -pretrained_weights {grafted}",
    )
    assert f"-pretrained_weights {grafted}" in printed  # as graft advises
    ours, theirs = (torch.load(file, weights_only=False) for file in (checkpoint(host, trainer, "nnUNetPlans"), stock))
    assert ours["current_epoch"] == 1
    # One step with a learning rate of 0.01 leaves the weights where they were, almost; the heads are drawn anew.
    for key, value in theirs["network_weights"].items():
        change = (ours["network_weights"][key] - value).norm() / value.norm()
        if key.endswith("conv.weight") or (".seg_layers." in key and key.endswith("weight")):
            assert (change > 0.5) == (".seg_layers." in key), (key, change)


def test_trainer_and_plans_route_are_interchangeable(host):
    host.run(f"nnUNetv2_salstm plan -d {NUMBER} -c 3d_fullres")
    train(host, "nnUNetPlansSALSTM_A")
    by_plans = checkpoint(host, "nnUNetTrainer", "nnUNetPlansSALSTM_A")
    trainer = "nnUNetTrainerSALSTM_A_2epochs_2its"
    host.run(f"nnUNetv2_train {NUMBER} 3d_fullres 0 -tr {trainer} -device cpu")
    by_trainer = checkpoint(host, trainer, "nnUNetPlans")
    networks = []
    for file in (by_plans, by_trainer):
        arguments = torch.load(file, weights_only=False)["init_args"]
        networks.append(architecture_of(arguments["plans"], "3d_fullres"))
    assert json.loads(json.dumps(networks[0])) == json.loads(json.dumps(networks[1]))
    # Exchanged, each predicts what the other predicted.
    routes = (trainer, "nnUNetPlans"), ("nnUNetTrainer", "nnUNetPlansSALSTM_A")
    host.run(*(predict(host, *route, f"before_{number}") for number, route in enumerate(routes)))
    kept = by_plans.read_bytes()
    shutil.copy(by_trainer, by_plans)
    by_trainer.write_bytes(kept)
    host.run(*(predict(host, *route, f"after_{number}") for number, route in enumerate(routes)))
    before, after = ([probabilities(host.root / f"{when}_{n}") for n in (0, 1)] for when in ("before", "after"))
    assert not np.array_equal(*before)
    assert np.array_equal(before[0], after[1])
    assert np.array_equal(before[1], after[0])
    # A training of the trainers' route goes on from a checkpoint of the plans' route.
    longer = checkpoint(host, "nnUNetTrainerSALSTM_A_4epochs_2its", "nnUNetPlans", "checkpoint_latest.pth")
    longer.parent.mkdir(parents=True)
    shutil.copy(by_trainer, longer)  # which is by_plans' now
    options = "-tr nnUNetTrainerSALSTM_A_4epochs_2its -device cpu --c"
    assert "Epoch 2" in host.run(f"nnUNetv2_train {NUMBER} 3d_fullres 0 {options}")
