"""The small study: its tables are those of its runs, it trains from end to end, and refuses bad input in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import SimpleITK
import torch
from places import ROOT
from presets import PRESETS, name_of, plans_of

# A warning of nnU-Net's own imports.

sys.path.append(str(ROOT / "benchmarks"))
small_study, small_tables, small_training = map(import_module, ("small_study", "small_tables", "small_training"))


def small(*arguments):
    return small_study.main([str(argument) for argument in arguments])


@pytest.fixture
def results(tmp_path):
    """A copy of the repository's runs."""
    return Path(shutil.copytree(small_study.RESULTS, tmp_path / "results"))


def test_the_repositorys_tables_are_those_of_its_runs(capsys):
    assert small("--verify") == 0
    assert "runs, their tables and checksums agree" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "where"), [("hippocampus_3d", "Hippocampus"), ("acdc_3d", "ACDC in 3D"), ("isic_2d", "ISIC")]
)
def test_the_readme_says_what_the_runs_say(setting, where):
    groups = small_tables.read_runs(ROOT / "docs" / "results" / "small_study")
    methods = groups[setting, 1500]
    gaps = small_tables._differences(dict(small_tables._planned_pairs(methods))["A0 - stock"])
    mean, low, high = re.findall(r"[+-]\d+\.\d", small_tables._with_interval([gaps], small_tables.TOGETHER))
    said = " ".join((ROOT / "README.md").read_text().split())
    assert f"{mean} on {where} ({low} to {high}, {len(gaps)} seeds)" in said


def change(results, **values):
    file = sorted(results.glob("*/*.json"))[0]
    file.write_text(small_study.to_json({**json.loads(file.read_text()), **values}))


def remove_a_sum(results):
    file = results / "SHA256SUMS"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda results: change(results, dice=0.99), "is changed since the tables were written"),
        (lambda results: change(results, format=2), "format must be 1, got 2; take the small_study.py that wrote it"),
        (lambda results: sorted(results.glob("*/*.json"))[0].unlink(), "is missing since the tables were written"),
        (remove_a_sum, "is new since the tables were written"),
        (lambda results: (results / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda results: sorted(results.glob("*/*.json"))[0].write_text("[]"), "is not a run of the small study"),
        (lambda results: sorted(results.glob("*/*.json"))[0].write_text("{"), "is not a run of the small study"),
        (shutil.rmtree, "--results must be a folder with runs"),
    ],
    ids=["run", "format", "gone", "unsigned", "no checksums", "no run", "no JSON", "no folder"],
)
def test_verify_names_the_difference(spoil, message, results, capsys):
    spoil(results)
    assert small("--results", results, "--verify") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_verify_compares_the_tables(results, tmp_path, monkeypatch, capsys):
    page = tmp_path / "evidence.md"
    page.write_text(small_tables.PAGE.read_text().replace("| stock | 0.", "| stock | 1."))
    monkeypatch.setattr(small_tables, "PAGE", page)
    assert small("--results", results, "--verify") == 1
    assert "of the tables must be '| stock | 0." in capsys.readouterr().err


def runs(*scores):
    return {seed: {"dice": dice} for seed, dice in enumerate(scores)}


def test_the_overview_has_the_longest_schedule_and_three_pairs_of_seeds():
    short = {"stock": runs(0.1, 0.1, 0.1), "A0": runs(0.9, 0.9, 0.9)}
    long = {"stock": runs(0.5, 0.6, 0.7), "A0": runs(0.51, 0.62, 0.73, 0.8), "bdclstm0": runs(0.5, 0.6)}
    groups = {("one", 400): short, ("one", 1500): long, ("two", 400): {"stock": runs(0.5), "A0": runs(0.6)}}
    *_, heads, _, row = small_tables._overview(groups).splitlines()
    assert heads == "| points [98.3 %] | mean of settings (settings) | one, 1500 steps (seeds) |"
    # Student's t is 7.65 there at 2 degrees of freedom; standard error 1 / sqrt(3).
    assert row == "| A0 - stock | +2.0 [-2.4, +6.4] (1) | +2.0 [-2.4, +6.4] (3) |"
    assert small_tables._overview({("two", 400): short | {"A0": runs(0.9, 0.9)}}) == ""
    # A longer schedule with too few seeds hides nothing.
    longer = groups | {("one", 3000): {"stock": runs(0.5, 0.5), "A0": runs(0.9, 0.9)}}
    assert small_tables._overview(longer) == small_tables._overview(groups)


def test_the_seeds_that_confirm_are_counted_apart():
    methods = {"stock": runs(*[0.5] * 8), "A0": runs(*[0.6] * 5, *[0.4] * 3)}
    planned, confirmed = (
        small_tables._overview({("one", 1500): methods}, *seeds) for seeds in ((), [small_tables.CONFIRMING_SEEDS])
    )
    assert planned.endswith("| A0 - stock | +10.0 [+10.0, +10.0] (1) | +10.0 [+10.0, +10.0] (5) |")
    assert confirmed.endswith("| A0 - stock | -10.0 [-10.0, -10.0] (1) | -10.0 [-10.0, -10.0] (3) |")


def test_training_loss_and_structures_are_of_shared_seeds():
    def run(loss, *dice):
        curve = {str(step): 9.0 for step in range(18)} | {"18": loss - 0.1, "19": loss + 0.1}
        return {"loss_curve": curve, "structures": ["a", "b"], "cases": {"x": list(dice), "y": [dice[0], None]}}

    methods = {
        "stock": {0: run(-0.5, 0.5, 0.7), 1: run(-0.7, 0.6, 0.8)},
        "A0": {1: run(-0.6, 0.65, 0.7), 2: run(9, 1, 1)},
    }
    *_, stock, ours = small_tables._structures({**methods, "B0": {5: run(0, 0, 0)}}).splitlines()
    assert stock == "| stock | -0.600 | 0.550 | 0.750 |"
    assert ours == "| A0 | +0.100 | +5.0 | -10.0 |"
    assert small_tables._structures({"stock": methods["stock"]}) == ""


def test_the_mean_of_settings_counts_each_once():
    one, two = [1.0, 2.0, 4.0, 3.5, 2.5], [-0.5, 0.2, 0.1]
    groups = {
        (setting, 1500): {"stock": runs(*[0.0] * len(gains)), "A0": runs(*[gain / 100 for gain in gains])}
        for setting, gains in (("one", one), ("two", two))
    }
    *_, row = small_tables._overview(groups).splitlines()
    # Half of Welch's interval for a sum, which scipy has for a difference.
    low, high = scipy.stats.ttest_ind(one, [-gain for gain in two], equal_var=False).confidence_interval(1 - 0.05 / 3)
    expected = f"{(np.mean(one) + np.mean(two)) / 2:+.1f} [{low / 2:+.1f}, {high / 2:+.1f}] (2)"
    assert row.startswith(f"| A0 - stock | {expected} | +2.6 [")
    assert small_tables._with_interval([[1.0, 1.0], [2.0, 2.0]], 0.95) == "+1.5 [+1.5, +1.5]"


RUN = ("--settings", "acdc_3d", "--methods", "stock", "--steps", 1, "--seeds", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", *RUN[:3], "C1", *RUN[4:]), "a method must be stock, or A, B, bdclstm or conv .* got 'C1'"),
        (("run", *RUN[:3], "A1_wide", *RUN[4:]), "such as A1_centred; got 'A1_wide'"),
        (("run", "--settings", "acdc_4d", *RUN[2:]), "a setting must be one of acdc_3d, .* got 'acdc_4d'"),
        (("run", *RUN[:5], 0, *RUN[6:]), "--steps and --workers must be at least 1"),
        (("run", *RUN), "acdc_3d lacks preprocessed data in .*; run first: small_study.py prepare acdc_3d"),
        (("prepare", "acdc_4d"), "a setting must be one of acdc_3d, .* got 'acdc_4d'"),
        (("prepare", "acdc_3d"), "--data must be the folder of the real data"),
        (("prepare", "acdc_3d", "--data", "nowhere"), "--data must be the folder of the real data .* got nowhere"),
        (("prepare", "acdc_3d", "--data", ROOT), "--data must have the folder ACDC_official_layout for acdc_3d"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SALSTM_REAL_DATA", raising=False)
    for name in ("raw", "preprocessed", "results", "n_proc_DA"):
        monkeypatch.setenv(f"nnUNet_{name}", "1")  # put back afterwards
    assert small(*arguments, "--work", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def write_preprocessed(
    folder, cases, size=(24, 36, 24), noise=0.3, preset="hippocampus3d", channels=1, plans="nnUNetPlans"
):
    """Writes balls as nnU-Net's preprocessed data, all channels alike but for the noise."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    configuration = {**PRESETS[preset], "data_identifier": f"{plans}_{name_of(PRESETS[preset])}"}
    data = folder / configuration["data_identifier"]
    data.mkdir(parents=True)
    names = [f"case_{number:03d}" for number in range(cases)]
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    dataset_json = {
        "channel_names": {str(channel): f"MRI {channel}" for channel in range(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    splits = [{"train": names[1:], "val": names[:1]}] * 5
    for name, values in (
        ("dataset.json", dataset_json),
        (f"{plans}.json", plans_of(configuration, channels)),
        ("splits_final.json", splits),
    ):
        (folder / name).write_text(json.dumps(values))
    generator = np.random.default_rng(0)
    for name in names:
        distance = np.linalg.norm(np.indices(size) - np.array(size).reshape(3, 1, 1, 1) // 2, axis=0)
        labelled = np.where(distance < 5, 1, np.where(distance < 9, 2, 0)).astype(np.int8)[None]
        image = labelled + generator.normal(0, noise, (channels, *size))
        locations = {label: np.argwhere(labelled == label) for label in (1, 2)}
        nnUNetDatasetBlosc2.save_case(
            image.astype(np.float32),
            labelled,
            {"class_locations": locations},
            str(data / name),
            chunks=(1, *size),
            blocks=(1, *size),
        )


class Nearest(torch.nn.Module):
    """Predicts the label next to the intensity."""

    def __init__(self):
        super().__init__()
        self.decoder = torch.nn.Identity()

    def forward(self, x):
        return torch.cat([-(x - label).abs() for label in range(3)], dim=1)


@pytest.mark.parametrize("size", [(24, 32, 24), (25, 47, 60), (20, 20, 30)], ids=str)
def test_predicts_every_voxel_of_cases_larger_and_smaller_than_the_window(size, tmp_path):
    write_preprocessed(tmp_path, cases=2, size=size, noise=0)
    data = small_training.Data(tmp_path, small_training.SETTINGS["hippocampus_3d"])
    assert (data.test_cases, data.training_cases) == (["case_000"], ["case_001"])
    assert small_training.Predictor(data, Nearest()).dice(data.test_cases) == {"case_000": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("setting", "preset", "channels", "size"),
    [
        pytest.param("acdc_3d", "acdc3d", 1, (10, 70, 70), marks=pytest.mark.nightly),
        pytest.param("hippocampus_3d_resenc", "hippocampus3d", 1, (24, 36, 24), marks=pytest.mark.nightly),
        ("acdc_25d", "acdc2d", 3, (2, 100, 100)),
        ("isic_2d", "isic2d", 1, (1, 130, 130)),
        ("isic_2d_swin", "isic2d", 3, (1, 130, 130)),
    ],
)
def test_the_other_settings_train_and_predict(setting, preset, channels, size, tmp_path):
    plans = small_training.SETTINGS[setting].plans
    write_preprocessed(tmp_path / "data", cases=2, size=size, preset=preset, channels=channels, plans=plans)
    data = small_training.Data(tmp_path / "data", small_training.SETTINGS[setting])
    training = small_training.Training(data, "bdclstm1", 100, seed=0, unfinished=tmp_path / "unfinished.pth")
    training._make_step()
    assert training.step == 1
    assert np.isfinite(training.losses).all()
    hosts = {"hippocampus_3d_resenc": "ResidualEncoderUNet", "isic_2d_swin": "SwinUNETRInTwo"}
    assert hosts.get(setting, "PlainConvUNet") in type(training.network).__name__
    sequences = {"acdc_25d": "frames", "isic_2d": "repeat", "isic_2d_swin": "repeat"}
    assert training.salstm["sequence"] == sequences.get(setting, "slices")
    scores = small_training.Predictor(data, training.network).dice(data.test_cases)
    assert all(0 <= dice <= 1 for dice in scores["case_000"])


def test_what_stands_behind_the_blocks_starts_as_it_should_and_is_switched_off_with_them(tmp_path):
    write_preprocessed(tmp_path, cases=2)
    data = small_training.Data(tmp_path, small_training.SETTINGS["hippocampus_3d"])
    x = torch.from_numpy(data.batches().generate_train_batch()["data"].numpy())
    outputs = {}
    for method in ("stock", "A1", "A1_gain", "A1_norm"):
        torch.manual_seed(0)
        network, _, _ = small_training.build(data, method)
        outputs[method] = network(x)[0]
        if method == "stock":
            continue
        for factor in (1, 100):
            spy = small_training.Spy(dict(network.salstm.items()))
            with torch.no_grad(), spy.watching():
                for block in network.salstm.values():
                    block.layer.output_convolution.weight.mul_(factor)
                network(x)
            shares = [found["share"] for found in spy.result().values()]
            expected = {"A1": 0.2 * factor, "A1_gain": 0, "A1_norm": 0.2}[method]
            assert shares == pytest.approx([expected] * 4, rel=0.4), method
        with small_training.switched_off(network.salstm.values()):
            assert torch.equal(network(x)[0], outputs["stock"])
    assert torch.equal(outputs["A1_gain"], outputs["stock"])
    network(x)[0].square().mean().backward()
    assert all(block.addition[1].weight.grad.any() for block in network.salstm.values())


def test_nnunet_itself_gets_a_settings_plans_and_a_fold_of_half_its_test_cases(tmp_path):
    write_preprocessed(tmp_path, cases=6)
    names = [f"case_{number:03d}" for number in range(6)]
    before = [{"train": names[3:], "val": names[:3]}] * 5
    (tmp_path / "splits_final.json").write_text(json.dumps(before))
    for _ in range(2):
        small_study.write_for_nnunet(tmp_path, "hippocampus_3d")
        splits = json.loads((tmp_path / "splits_final.json").read_text())
        assert splits == [*before, {"train": names[3:], "val": [names[0], names[2]]}]
    plans = json.loads((tmp_path / "nnUNetPlans_hippocampus_3d.json").read_text())
    assert plans["plans_name"] == "nnUNetPlans_hippocampus_3d"
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [24, 32, 24]


def test_nnunet_gets_no_plans_of_a_host_that_it_cannot_build(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results", "n_proc_DA"):
        monkeypatch.setenv(f"nnUNet_{name}", "1")  # put back afterwards
    (tmp_path / "data" / "ISIC2018_sample").mkdir(parents=True)
    data = tmp_path / "work" / "preprocessed" / "Dataset701_ISIC2018"
    (tmp_path / "work" / "raw" / data.name).mkdir(parents=True)
    write_preprocessed(data, cases=2, size=(1, 130, 130), preset="isic2d", plans="nnUNetPlans_coarse")
    for setting, plans in (("isic_2d_swin", []), ("isic_2d", ["nnUNetPlans_isic_2d.json"])):
        assert small("prepare", setting, "--data", tmp_path / "data", "--work", tmp_path / "work") == 0
        assert [file.name for file in data.glob("nnUNetPlans_isic*.json")] == plans


def test_images_are_cut_around_their_labels_within_the_slices(tmp_path):
    whole, cropped = tmp_path / "Dataset001_Whole", tmp_path / "Dataset002_Cropped"
    for folder in ("imagesTr", "labelsTr"):
        (whole / folder).mkdir(parents=True)
    (whole / "dataset.json").write_text("{}")
    labels = np.zeros((3, 100, 90), np.uint8)  # (Z, Y, X)
    labels[1, 50:60, 10:30] = 2
    image = np.random.default_rng(0).random(labels.shape, np.float32)
    volumes = {"labelsTr/a.nii.gz": labels, "imagesTr/a_0000.nii.gz": image, "imagesTr/a_0001.nii.gz": image}
    for file, array in volumes.items():
        volume = SimpleITK.GetImageFromArray(array)
        volume.SetSpacing((1.5, 2.0, 10.0))
        SimpleITK.WriteImage(volume, whole / file)
    small_study.crop_to_labels(whole, cropped)
    for file, array in volumes.items():
        read = SimpleITK.ReadImage(cropped / file)
        # 30 mm are 15 voxels along Y and 20 along X, where the image ends first.
        assert np.array_equal(SimpleITK.GetArrayFromImage(read), array[:, 35:75, :50])
        assert read.GetOrigin() == (0, 70, 0)
    assert (cropped / "dataset.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [whole.name, cropped.name]


def test_dice_of_hand_counted_masks():
    one, two, none = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool), np.zeros(4, bool)
    assert small_training._dice(one, two) == 0.4
    assert small_training._dice(one, none) == 0
    assert small_training._dice(none, none) is None
    assert small_training.mean_dice({"a": [0.4, None], "b": [0.2, 0.6]}) == 0.4


@pytest.mark.nightly
def test_trains_from_end_to_end_and_goes_on_after_a_kill(tmp_path):
    write_preprocessed(tmp_path / "work" / "preprocessed" / "Dataset004_Hippocampus", cases=3)
    options = ("--results", tmp_path / "results", "run", "--work", tmp_path / "work", "--settings", "hippocampus_3d")
    command = [sys.executable, ROOT / "benchmarks" / "small_study.py", *options]
    command += ["--methods", "A1_correlation_lr3", "--seeds", 0, "--workers", 1, "--steps", 3]
    command = [str(argument) for argument in command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    (file,) = (tmp_path / "results").glob("*/*")
    assert file.name == "A1_correlation_lr3-3-seed0.json"
    run = json.loads(file.read_text())
    assert (run["format"], run["setting"], run["steps"], run["rate"]) == (1, "hippocampus_3d", 3, 3.0)
    assert (run["salstm"]["attention"], run["salstm"]["initial_gain"]) == ("correlation", 1.0)
    assert list(run["cases"]) == ["case_000"]
    assert list(run["loss_curve"]) == ["1", "2", "3"]
    assert list(run["removed"]) == ["all", "0", "1", "2", "3"]
    for stage, channels in zip("0123", (3, 6, 12, 24), strict=True):
        found = run["blocks"][stage]
        assert found["share"] > 0.01
        assert 1 <= found["rank_a"] <= channels
        assert 1 <= found["rank_y"] <= found["rank_v"] + 1e-3
    # What is done is left alone, and the work folder holds nothing half-done.
    assert "starts" not in subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    assert not list((tmp_path / "work" / "unfinished").rglob("*.pth"))
