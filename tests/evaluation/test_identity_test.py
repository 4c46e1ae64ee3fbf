"""What a trained model loses without its blocks: by hand, and through `inspect` and `compare`."""

import json
import math
import shutil
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from model_folders import awaken, write_images, write_model
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from presets import build, tiny

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.evaluation.identity_test import identity_test, losses, sentence
from nnunetv2_salstm.host.cases import find_cases
from nnunetv2_salstm.host.models import Model
from nnunetv2_salstm.nn import switched_off

A, FINAL = "nnUNetTrainerSALSTM_A", "checkpoint_final.pth"


@pytest.mark.parametrize("sequence", ["slices", "frames"])
def test_switched_off_blocks_return_their_skips(sequence):
    frames = 3 if sequence == "frames" else 1
    dims = 2 if frames > 1 else 3
    network = build(tiny(dims), {"module": "A", "sequence": sequence}, input_channels=frames, deep_supervision=False)
    awaken(network)
    weights = deepcopy(network.state_dict())
    x = torch.randn(2, frames, *(16,) * dims)
    with torch.no_grad():
        skips = network.encoder(network.salstm.stack_frames(x))
        stock = network.decoder([skip[:2] for skip in skips])
        with_blocks = network(x)
        with switched_off(network.salstm.values()):
            assert torch.equal(network(x), stock)
        assert not torch.equal(stock, with_blocks)
        with switched_off([network.salstm["0"]]):
            assert not torch.equal(network(x), with_blocks)
        with pytest.raises(KeyboardInterrupt), switched_off(network.salstm.values()):
            raise KeyboardInterrupt
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def predict(model, network, file):
    """Returns nnU-Net's own segmentation of an image by a network, without mirroring."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.manual_initialization(
        network, model.plans, model.configuration, [network.state_dict()], model.dataset_json, A, None
    )
    image, properties = model.plans.image_reader_writer_class().read_images([str(file)])
    return predictor.predict_single_npy_array(image, properties)


def write_reference(segmentation, folder, name):
    """Writes a segmentation of the images of `write_images`."""
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(segmentation, np.uint8))
    image.SetSpacing((1.0, 1.0, 3.0))
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def dice(ours, theirs, label):
    ours, theirs = ours == label, theirs == label
    total = ours.sum() + theirs.sum()
    return 2 * (ours & theirs).sum() / total if total else math.nan


def test_dice_is_that_of_nnunets_own_predictions(tmp_path):
    folder = write_model(tmp_path, A, {"module": "A"})
    images, references = write_images(tmp_path / "images"), tmp_path / "references"
    model = Model.read(folder, None, FINAL)
    networks = {"nothing": model.network}
    for off, blocks in {"all": "012", "0": "0", "1": "1", "2": "2"}.items():
        networks[off] = deepcopy(model.network)
        for stage in blocks:
            for parameter in networks[off].salstm[stage].layer.output_convolution.parameters():
                parameter.data.zero_()
    predicted = {
        (off, case): predict(model, network, images / f"{case}_0000.nii.gz")
        for off, network in networks.items()
        for case in "ab"
    }
    for case in "ab":
        write_reference(predicted["nothing", case], references, case)
    cases = find_cases(images, ".nii.gz")
    found = identity_test(model, cases, {case: references / f"{case}.nii.gz" for case in "ab"}, "cpu")
    assert list(found["off"].unique()) == ["nothing", "all", "0", "1", "2"]
    for row in found.itertuples():
        label = {"one": 1, "two": 2}[row.label]
        expected = dice(predicted[row.off, row.case], predicted["nothing", row.case], label)
        assert row.dice == pytest.approx(expected, nan_ok=True)
    by_off = found.groupby("off")["dice"].mean()
    assert by_off["nothing"] == 1
    assert by_off["all"] < 0.99


def found_with(**dice_by_off):
    rows = [
        (case, off, label, value)
        for off, cases in dice_by_off.items()
        for case, labels in zip("ab", cases, strict=False)
        for label, value in zip(("one", "two"), labels, strict=True)
    ]
    return pd.DataFrame(rows, columns=["case", "off", "label", "dice"])


def test_means_are_over_labels_then_over_cases():
    nan = math.nan
    table = losses(found_with(nothing=[(0.8, 0.6), (0.9, nan)], all=[(0.6, 0.6), (0.92, nan)]))
    of_nothing, of_all = table.drop(columns="off").to_numpy().tolist()
    assert of_nothing == pytest.approx([0.8, 0, 0, 0, 2])
    assert of_all == pytest.approx([0.76, -0.04, 1, 1, 2])


NOTHING, NONE = [(0.8, 0.8), (0.6, 0.6)], (math.nan, math.nan)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"all": [(0.7, 0.7), (0.6, 0.6)]},
            "without its blocks this model loses 5.0 points (Dice 0.700 with, 0.650 without, 2 cases).",
        ),
        (
            {"all": [(0.7, 0.7), (0.6, 0.6)], "0": [(0.79, 0.79), (0.6, 0.6)], "1": [(0.78, 0.78), (0.6, 0.6)]},
            "without its blocks this model loses 5.0 points (Dice 0.700 with, 0.650 without, 2 cases), most without "
            "those of stage 1 (1.0 points).",
        ),
        (
            {"all": [(0.82, 0.82), (0.6, 0.6)]},
            "without its blocks this model gains 1.0 points (Dice 0.700 with, 0.710 without, 2 cases).",
        ),
        (
            {"all": [(0.799, 0.8), (0.6, 0.6)]},
            "its blocks do nothing for these cases: without them this model loses nothing (Dice 0.700 with, 0.700 "
            "without, 2 cases).",
        ),
        (
            {"all": [(0.9, 0.9), (0.5, 0.5)]},
            "without its blocks this model neither gains nor loses in the mean (Dice 0.700 with, 0.700 without, "
            "2 cases; 1 better and 1 worse by more than a point).",
        ),
        (
            {"nothing": [NONE, NONE], "all": [NONE, NONE]},
            "there is nothing to see without its blocks either: no case has a label, or a prediction.",
        ),
    ],
    ids=["loses", "by stage", "gains", "nothing", "both ways", "empty"],
)
def test_one_sentence(found, said):
    assert sentence(losses(found_with(**{"nothing": NOTHING} | found))) == said


def test_inspect_says_it(tmp_path, capsys):
    folder = write_model(tmp_path, A, {"module": "A", "placement": "bottleneck"})
    stock = write_model(tmp_path, "nnUNetTrainer", None)
    images, references = write_images(tmp_path / "images", ["a"]), tmp_path / "references"
    rng = np.random.default_rng(0)
    write_reference(rng.integers(0, 3, (9, 30, 22)), references, "a")
    out = tmp_path / "out"
    words = ["inspect", folder, stock, "-i", images, "--reference", references, "-o", out]
    assert main([str(word) for word in words]) == 0
    ours, theirs = json.loads((out / "inspect.json").read_text())["models"]
    assert theirs["identity_test"] is None
    assert {row["off"] for row in ours["identity_test"]} == {"nothing", "all", "2"}
    (said,) = [words for words in ours["words"] if "its blocks" in words]
    assert said.startswith("SALSTM_A: ")
    assert said in " ".join(capsys.readouterr().out.split())
    assert "Without the modules" in (out / "index.html").read_text()

    (references / "a.nii.gz").rename(references / "b.nii.gz")
    assert main([str(word) for word in [*words[:-1], tmp_path / "other"]]) == 1
    error = capsys.readouterr().err
    assert f"--reference {references} must have the segmentation of every case, CASE.nii.gz; it lacks 1 of 1" in error
    assert not (tmp_path / "other").exists()


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """A data set with two cases, a stock and an SA-LSTM training of one fold each, and compare's arguments."""
    name = "Dataset027_Phantom"
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind / name).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "raw" / name / "imagesTr")
    rng = np.random.default_rng(1)
    places = [tmp_path / "preprocessed" / name / "gt_segmentations"]
    for trainer, salstm in {"nnUNetTrainer": None, A: {"module": "A", "placement": "bottleneck"}}.items():
        model = write_model(tmp_path / "results" / name, trainer, salstm)
        (model / "fold_0" / "validation").mkdir()
        (model / "fold_0" / "validation" / "summary.json").write_text("{}")
        places.append(model / "fold_0" / "validation")
    for place in places:
        for case in "ab":
            write_reference(rng.integers(0, 3, (9, 30, 22)), place, case)
    raw = tmp_path / "raw" / name
    (raw / "dataset.json").write_text((model / "dataset.json").read_text())
    (raw / "labelsTr").symlink_to(places[0])
    words = ["compare", "-d", "27", "-c", "3d_fullres", "-tr", "nnUNetTrainer", A, "--metrics", "dice", "-np", "1"]
    return tmp_path, words


def test_compare_says_it(trainings, capsys):
    folder, words = trainings
    file = folder / "compare.json"
    assert main([*words, "--identity-test", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["identity_tests"]
    assert list(found) == [A]
    assert [(row["off"], row["cases"]) for row in found[A]] == [("nothing", 2), ("all", 2)]
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{A}, fold_0: predicted with and without its blocks" in printed
    assert "SALSTM_A: without its blocks this model" in printed or "SALSTM_A: its blocks do nothing" in printed


def test_compare_refuses_what_it_cannot_test(trainings, capsys):
    folder, words = trainings
    assert main([*words, "--identity-test", "-device", "cuda:7"]) == 1
    assert "-device cuda:7 needs a GPU" in capsys.readouterr().err
    (folder / "raw").rename(folder / "elsewhere")
    (folder / "raw").mkdir()
    assert main([*words, "--identity-test"]) == 1
    printed, error = capsys.readouterr()
    assert "scoring" not in printed + error  # before the long work
    assert "--identity-test predicts the validation cases, whose images must be in nnUNet_raw; 2 are not" in error
    stock = folder / "results" / "Dataset027_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(stock, stock.with_name("nnUNetTrainerOther__nnUNetPlans__3d_fullres"))
    assert main([*(word.replace(A, "nnUNetTrainerOther") for word in words), "--identity-test"]) == 1
    assert "none of the trainers has SA-LSTM blocks" in capsys.readouterr().err
    places = ["--reference", str(folder), "-i", f"a={folder}", f"b={folder}"]
    assert main(["compare", *places, "--identity-test"]) == 1
    assert "--identity-test needs trained networks: give their data set and trainers" in capsys.readouterr().err
