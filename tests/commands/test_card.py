"""`nnUNetv2_salstm card`: what it says of a model, and what it leaves to the author."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from model_folders import write_model

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.host.checkpoints import count_parameters

A = "nnUNetTrainerSALSTM_A"
LOG = """
2026-01-01 00:00:00.000000: nnU-Net 2.8.1 (release)
2026-01-01 00:00:00.000000: Epoch 0
2026-01-01 00:00:00.000000: train_loss 0.5
2026-01-01 00:00:00.000000: Epoch time: 7200.0 s
"""
# Dice of the labels one and two by case; nan where both masks are empty.
SCORES = {"0": [(0.9, 0.7), (0.8, float("nan"))], "1": [(0.7, 0.5)]}


def finish(folder, fold):
    """Leaves behind what nnU-Net does at the end of a training."""
    place = folder / f"fold_{fold}"
    (place / "validation").mkdir()
    cases = [{"metrics": {"1": {"Dice": one}, "2": {"Dice": two}}} for one, two in SCORES[fold]]
    (place / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    (place / "training_log_1.txt").write_text(LOG)
    (place / "debug.json").write_text(json.dumps({"num_epochs": "1", "torch_version": "2.9", "gpu_name": "A100"}))


@pytest.fixture
def model(tmp_path):
    folder = write_model(tmp_path, A, {"module": "A"}, folds=("0", "1"))
    for fold in ("0", "1"):
        finish(folder, fold)
    return folder


def card(*words):
    return main(["card", *map(str, words)])


def read(file):
    _, front, text = file.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_says_what_nnunet_left_behind(model, tmp_path, capsys):
    file = tmp_path / "cards" / "README.md"
    assert card(model, "-o", file) == 0
    front, text = read(file)
    assert front["license"] == "other"
    assert front["tags"] == ["medical", "nnU-Net", "SA-LSTM"]
    (index,) = front["model-index"]
    found = {metric["name"]: metric["value"] for metric in index["results"][0]["metrics"]}
    # Means over the labels of a case, then over cases.
    assert found == {
        "Dice, mean, validation": round((0.8 + 0.8 + 0.6) / 3, 4),
        "Dice, one, validation": 0.8,
        "Dice, two, validation": 0.6,
    }
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert f"{count_parameters(weights) / 1e6:.2f} M parameters" in text
    row = next(line for line in text.splitlines() if line.startswith("| one"))
    # Student's interval of three cases: t = 4.303, standard error 0.1 / sqrt(3); cut where Dice ends.
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["0.8000", "0.5516 to 1.0000", "3"]
    for said in ("fold 0, 1, cases that the networks were not trained on", "module A", "A100", "-f 0 1", "MRI (0)"):
        assert said in text
    assert [line.split("|")[-2].strip() for line in text.splitlines() if "A100" in line] == ["2", "2"]
    number = file.read_text().count("TODO")
    assert f"Written: {file}; {number} places are left to you, marked TODO" in capsys.readouterr().out
    assert "Not a medical device" in text


def test_a_stock_model_without_validation(tmp_path):
    folder = write_model(tmp_path, "nnUNetTrainer", None, folds=("all",))
    files = [tmp_path / f"{number}.md" for number in range(2)]
    for file in files:
        assert card(folder, "-o", file, "--license", "cc-by-4.0") == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    front, text = read(files[0])
    assert front["license"] == "cc-by-4.0"
    assert "license_name" not in front
    assert "model-index" not in front
    assert "SA-LSTM" not in files[0].read_text()
    assert "TODO: there is no validation with this model" in text


def test_scores_of_regions_are_found_as_nnunet_writes_them(model, tmp_path):
    described = json.loads((model / "dataset.json").read_text())
    described["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    (model / "dataset.json").write_text(json.dumps(described))
    for fold in ("0", "1"):
        cases = [{"metrics": {"(1, 2)": {"Dice": 0.5}, "(2,)": {"Dice": 0.25}}}]
        (model / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    assert card(model, "-o", tmp_path / "card.md") == 0
    rows = [line.replace(" ", "") for line in (tmp_path / "card.md").read_text().splitlines()]
    # Equal scores have no interval.
    assert "|whole|0.5000|-|2|" in rows
    assert "|core|0.2500|-|2|" in rows


def test_fold_all_is_not_called_a_validation(tmp_path):
    folder = write_model(tmp_path, A, {"module": "A"}, folds=("all",))
    SCORES["all"] = SCORES["0"]
    finish(folder, "all")
    assert card(folder, "-o", tmp_path / "card.md") == 0
    assert "**on the cases that the network was trained on**" in (tmp_path / "card.md").read_text()


def compared(folder, monkeypatch, *names):
    """Returns the JSON of a comparison of folders of predictions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    rng = np.random.default_rng(0)
    for name in ("reference", *names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for case in "abc":
            image = sitk.GetImageFromArray(rng.integers(0, 3, (3, 5, 5)).astype(np.uint8))
            sitk.WriteImage(image, str(folder / name / f"{case}.nii.gz"))
    labels = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(labels))
    file = folder / f"{names[-1]}.json"
    folders = [f"{name}={folder / name}" for name in names]
    words = ["compare", "--reference", folder / "reference", "-i", *folders, "--metrics", "dice", "--json", file]
    assert main([*map(str, words), "-np", "1"]) == 0
    return file


def test_a_comparison_is_quoted(model, tmp_path, monkeypatch, capsys):
    file = compared(tmp_path / "predictions", monkeypatch, "nnUNetTrainer", A)
    assert card(model, "-o", tmp_path / "card.md", "--compare", file) == 0
    assert "- These networks: no difference shown between SALSTM_A and" in (tmp_path / "card.md").read_text()
    other = compared(tmp_path / "predictions", monkeypatch, "nnUNetTrainer", "nnUNetTrainerSALSTM_B")
    assert card(model, "-o", tmp_path / "card.md", "--compare", other, "--overwrite") == 1
    assert f"is about nnUNetTrainer, nnUNetTrainerSALSTM_B, not about this model's {A}" in capsys.readouterr().err
    report, place = json.loads(file.read_text()), f"nnUNet_results/Dataset004_Hippocampus/{model.name}"
    report["inputs"]["runs"][A] = {"0": f"{place}/fold_0/validation"}
    file.write_text(json.dumps(report))
    assert card(model, "-o", tmp_path / "card.md", "--compare", file, "--overwrite") == 1
    # The plans say what the model is of, wherever its folder lies.
    own = f"Dataset999_Preset/{model.name}"
    assert f"is about Dataset004_Hippocampus/{model.name}, not about this model, {own}" in capsys.readouterr().err
    place = f"nnUNet_results/{own}"
    report["inputs"]["runs"][A] = {"0": f"{place}/fold_0/validation"}
    file.write_text(json.dumps(report))
    assert card(model, "-o", tmp_path / "card.md", "--compare", file, "--overwrite") == 0


def test_bad_input_is_one_line(model, tmp_path, capsys):
    file = tmp_path / "card.md"

    def refused(*words):
        assert card(*words) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "there is no file of plans of a trained model at" in refused(tmp_path, "-o", file)
    (tmp_path / "compare.json").write_text('{"format": 7}')
    error = refused(model, "-o", file, "--compare", tmp_path / "compare.json")
    assert "must be a comparison of format 2, got 7" in error
    file.write_text("mine")
    assert f"-o {file} is there already; choose another file, or add --overwrite" in refused(model, "-o", file)
    assert file.read_text() == "mine"
    summary = model / "fold_0" / "validation" / "summary.json"
    for text, lacks in (("{}", "'metric_per_case'"), ('{"metric_per_case": [{"metrics": {"1": {"Dice": 1}}}]}', "'2'")):
        summary.write_text(text)
        error = refused(model, "-o", file, "--overwrite")
        assert f"{summary} does not have the scores of the labels in dataset.json: it lacks {lacks}; validate" in error
    plans = (model / "plans.json").read_text()
    for change, message in (("3d_fullres", "must have the configuration"), ("dataset_name", "it lacks dataset_name")):
        (model / "plans.json").write_text(plans.replace(f'"{change}"', '"other"'))
        assert message in refused(model, "-o", file, "--overwrite")
    damaged = json.loads(plans)
    damaged["configurations"]["3d_fullres"]["inherits_from"] = "nowhere"
    (model / "plans.json").write_text(json.dumps(damaged))
    assert "plans.json: configuration '3d_fullres' cannot be read" in refused(model, "-o", file, "--overwrite")
    (model / "plans.json").write_text(plans)
    for fold in ("0", "1"):
        (model / f"fold_{fold}" / "checkpoint_final.pth").unlink()
    assert "has no fold with checkpoint_final.pth" in refused(model, "-o", file, "--overwrite")
