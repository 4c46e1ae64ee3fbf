"""`nnUNetv2_salstm trainers`."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from presets import PRESETS, build, plans_of

import nnunetv2_salstm_autoload
from nnunetv2_salstm.cli import main
from nnunetv2_salstm.host.trainer_names import METHODS, SUFFIXES, TrainerName
from nnunetv2_salstm.plans import add_to_plans
from nnunetv2_salstm_autoload import trainers_folder

DATASET = "Dataset123_Test"


@pytest.fixture
def planned(nnunet_folders):
    """The folder of a data set with plans of three configurations."""
    folder = nnunet_folders / "preprocessed" / DATASET
    folder.mkdir()
    plans = plans_of(PRESETS["acdc3d"])
    plans["configurations"]["2d"] = plans_of(PRESETS["acdc2d"])["configurations"]["2d"]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    labels = {"background": 0, "a": 1, "b": 2}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))
    return folder


def test_every_trainer_has_a_line_and_the_example_is_one(capsys):
    assert main(["trainers"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[: len(METHODS)]] == list(METHODS)
    assert all(line.split()[1] in ("method:", "control:") for line in lines[: len(METHODS)])
    TrainerName.parse(printed.split("-tr ")[1].strip())


def test_the_suffixes_that_are_listed_are_taken_in_that_order():
    of_each_line = [re.sub("<.>", "3", line).split(" or ") for line in SUFFIXES]
    for suffixes in itertools.product(*of_each_line):
        TrainerName.parse(f"nnUNetTrainerSALSTM_A{''.join(suffixes)}")
    with pytest.raises(ValueError, match="the trainer must be"):
        TrainerName.parse(f"nnUNetTrainerSALSTM_A{''.join(suffixes[::-1])}")


@pytest.mark.parametrize(("configuration", "preset"), [("2d", "acdc2d"), ("3d_fullres", "acdc3d")])
def test_sizes_are_those_of_the_networks(configuration, preset, planned, capsys):
    assert main(["trainers", "-d", "123", "-c", configuration]) == 0
    rows = re.findall(r"^\| (nnUNet\w+) *" + r"\| +([\d.]+) " * 4 + r"\|$", capsys.readouterr().out, re.M)
    assert [row[0] for row in rows] == list(METHODS)
    found = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    for name, demanded in METHODS.items():
        with torch.device("meta"):
            network = build(PRESETS[preset], demanded, input_channels=1)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert found[name][0] == pytest.approx(parameters / 1e6, abs=0.006)
    stock = found["nnUNetTrainerSALSTMOff"]
    assert stock[1] == stock[3] == 1
    for name in METHODS:
        assert found[name][1] == pytest.approx(found[name][0] / stock[0], abs=0.01)
        assert found[name][3] == pytest.approx(found[name][2] / stock[2], abs=0.01)
        assert name == "nnUNetTrainerSALSTMOff" or found[name][3] > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-d", "123"], "-d and -c go together"),
        (["-c", "2d"], "-d and -c go together"),
        (["-d", "77", "-c", "2d"], "the data set must be one of nnUNet_preprocessed"),
        (["-d", "123", "-c", "3d_lowres"], "has the configurations 3d_fullres, 2d; got 3d_lowres"),
        (["-d", "123", "-c", "2d", "-p", "Others"], "there is no file of plans at"),
        (["-d", "123", "-c", "2d", "-p", "Ours"], "-p must name stock plans to compare trainers on"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(words, message, planned, capsys):
    ours = add_to_plans(json.loads((planned / "nnUNetPlans.json").read_text()), "2d", {"module": "A"})
    (planned / "Ours.json").write_text(json.dumps(ours))
    assert main(["trainers", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_path_is_the_folder_that_nnunet_needs(monkeypatch, capsys):
    assert main(["trainers", "--path"]) == 0
    assert capsys.readouterr().out == f"{trainers_folder()}\n"
    assert (Path(trainers_folder()) / "nnunetv2_salstm_trainers.py").is_file()
    monkeypatch.setattr(nnunetv2_salstm_autoload, "trainers_folder", lambda: None)
    assert main(["trainers", "--path"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nnUNetv2_salstm trainers: the installation has no trainers folder; run: pip")
    assert error.count("\n") == 1
