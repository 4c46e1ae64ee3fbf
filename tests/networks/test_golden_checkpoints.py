"""Checkpoints of earlier versions load for ever, and compute what they computed."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from make_golden_checkpoints import TRAINERS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from places import DATA

from nnunetv2_salstm.trainers import get_trainer

GOLDEN = sorted(DATA.glob("nnUNetTrainer*.pth"))
by_name = pytest.mark.skipif(
    tuple(map(int, version("nnunetv2").split(".")[:2])) < (2, 8), reason="nnU-Net finds trainers by name since 2.8"
)


def test_there_are_checkpoints_of_this_version():
    names = {path.name for path in GOLDEN}
    assert {f"{trainer}_{version('nnunetv2-salstm')}.pth" for trainer in TRAINERS} <= names


@by_name
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_predicts_what_it_predicted(file, tmp_path):
    checkpoint = torch.load(file, weights_only=False)
    arguments = checkpoint["init_args"]
    (tmp_path / "plans.json").write_text(json.dumps(arguments["plans"]))
    (tmp_path / "dataset.json").write_text(json.dumps(arguments["dataset_json"]))
    (tmp_path / "fold_0").mkdir()
    shutil.copy(file, tmp_path / "fold_0" / "checkpoint_final.pth")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(tmp_path), (0,), "checkpoint_final.pth")
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    with torch.inference_mode():
        output = predictor.network(checkpoint["golden"]["input"])
    assert torch.allclose(output, checkpoint["golden"]["output"], atol=1e-5)
    assert output.std() > 0.01


@by_name
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_continues_where_it_was(file, tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    checkpoint = torch.load(file, weights_only=False)
    arguments = {**checkpoint["init_args"], "device": torch.device("cpu")}
    arguments["plans"] = {**arguments["plans"], "continue_training": True}  # as nnU-Net's command line adds
    trainer = get_trainer(checkpoint["trainer_name"])(**arguments)
    folder = Path(trainer.preprocessed_dataset_folder)
    folder.mkdir(parents=True)
    (folder / "case.b2nd").touch()  # nnU-Net infers the format of the data from it
    trainer.load_checkpoint(str(file))
    assert trainer.current_epoch == checkpoint["current_epoch"]
    for key, value in checkpoint["network_weights"].items():
        assert torch.equal(trainer.network.state_dict()[key], value), key
