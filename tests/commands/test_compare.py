"""`nnUNetv2_salstm compare` on results folders like those that nnU-Net leaves behind."""

import contextlib
import csv
import importlib.util
import json
import math
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import stats

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.runs import TrainingLog, methods_of, runs_of_folders, short_names
from nnunetv2_salstm.evaluation.scoring import Scoring
from nnunetv2_salstm.host.errors import SalstmError

VANILLA, SALSTM = "nnUNetTrainer", "nnUNetTrainerSALSTM_A"
DATASET = "Dataset027_Phantom"
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "ring": 1, "core": 2},
    "numTraining": 8,
    "file_ending": ".nii.gz",
}
CASES = {0: ["p1_a", "p1_b", "p2_a", "p2_b"], 1: ["p3_a", "p3_b", "p4_a", "p4_b"]}
LOG = """
2026-01-01 00:00:00.000000: Epoch 0
2026-01-01 00:00:00.000000: train_loss 0.5
2026-01-01 00:00:00.000000: val_loss 0.4
2026-01-01 00:00:00.000000: Pseudo dice [np.float32(1e-04), np.float32(0.9999), np.float32(nan)]
2026-01-01 00:00:00.000000: Epoch time: 10.0 s
2026-01-01 00:00:00.000000: Epoch 1
2026-01-01 00:00:00.000000: train_loss -0.5
2026-01-01 00:00:00.000000: val_loss -0.4
2026-01-01 00:00:00.000000: Pseudo dice [0.5, 0.7]
2026-01-01 00:00:00.000000: Epoch time: {seconds} s
"""


def segmentation(error):
    """A core in a ring whose upper end is wrong by `error` slices."""
    image = np.zeros((8, 20, 20), np.uint8)
    image[1 : 6 + error, 3:17, 3:17] = 1
    image[2:5, 7:13, 7:13] = 2
    return image


def write(image, file, spacing=(1.0, 1.0, 3.0)):
    file.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(image)
    volume.SetSpacing(spacing)
    sitk.WriteImage(volume, str(file))


def train(results, trainer, errors, epochs=2, seconds=12.0):
    """Leaves behind what nnU-Net does; `errors` gives each case's."""
    model = results / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON))
    plan = {"patch_size": [8, 20, 20], "batch_size": 2, "architecture": {"arch_kwargs": {"n_stages": 3}}}
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": plan}}))
    for fold, cases in CASES.items():
        folder = model / f"fold_{fold}"
        for case in cases:
            write(segmentation(errors(case)), folder / "validation" / f"{case}.nii.gz")
        (folder / "validation" / "summary.json").write_text("{}")
        (folder / "training_log_1.txt").write_text(LOG.format(seconds=seconds))
        (folder / "debug.json").write_text(json.dumps({"num_epochs": str(epochs), "torch_version": "2.9"}))
        weight = torch.ones(100)
        weights = {"encoder.w": weight, "decoder.encoder.w": weight, "encoder.running_mean": torch.ones(7)}
        checkpoint = {"network_weights": weights, "logging": {"dice": [np.float64(0.5), np.float32(0.5)]}}
        torch.save(checkpoint, folder / "checkpoint_final.pth")


def vanilla_error(case):
    return 2 if case in ("p1_a", "p2_a", "p3_a") else 1


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nnU-Net's folders with a finished vanilla training."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for case in (case for cases in CASES.values() for case in cases):
        write(segmentation(0), tmp_path / "preprocessed" / DATASET / "gt_segmentations" / f"{case}.nii.gz")
    train(tmp_path / "results", VANILLA, vanilla_error)
    return tmp_path


def compare(folder, *arguments):
    """Runs the command in this process and returns its JSON."""
    file = folder / "out" / "compare.json"
    status = main(["compare", *map(str, arguments), "--json", str(file), "-np", "1"])
    return status, json.loads(file.read_text()) if file.exists() else None


# Without surfaces, which take most of the time.
OVERLAP = ("--metrics", "dice", "volume_error")


def trainers(folder, *names, options=(), metrics=OVERLAP):
    return compare(folder, "-d", "27", "-c", "3d_fullres", "-tr", *names, *metrics, *options)


def find(report, table="secondary", **wanted):
    (found,) = [row for row in report[table] if wanted.items() <= row.items()]
    return found


def scores(report):
    """Returns the scores by training, case and label."""
    rows = [dict(zip(report["scores"]["columns"], row, strict=True)) for row in report["scores"]["rows"]]
    return {(row["method"], row["seed"], row["case"], row["label"]): row for row in rows}


def model_of(folder, trainer):
    return folder / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"


def test_numbers_of_a_method_without_errors(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0, seconds=15.0)
    status, report = trainers(folders, VANILLA, SALSTM, options=["--csv", folders / "cases.csv"], metrics=())
    assert status == 0
    ring = find(report, label="ring", metric="dice")
    assert (ring["wins"], ring["draws"], ring["losses"], ring["count"]) == (8, 0, 0, 8)
    # Ring and core: 5 slices of 14 x 14, of which the core has 3 of 6 x 6; an error adds slices of 14 x 14.
    exact = np.array([2 * 872 / (2 * 872 + 196 * vanilla_error(case)) for cases in CASES.values() for case in cases])
    assert ring["difference"] == pytest.approx(1 - exact.mean())
    assert ring["p"] == pytest.approx(stats.ttest_1samp(1 - exact, 0).pvalue)
    verdict = report["verdicts"][SALSTM]
    # The core is right in both: the mean over the labels gains half.
    assert verdict["networks"]["difference"] == pytest.approx((1 - exact.mean()) / 2)
    assert verdict["networks"]["p_uncorrected"] == verdict["networks"]["p"] == pytest.approx(ring["p"])
    assert (verdict["networks"]["verdict"], verdict["methods"]["verdict"]) == ("better", "cannot be decided")
    assert verdict["methods"]["difference"] == pytest.approx(
        np.mean([(1 - exact[:4].mean()) / 2, (1 - exact[4:].mean()) / 2])
    )
    assert verdict["pairs"] == {"wins": 8, "draws": 0, "losses": 0, "improved": 8, "worsened": 0}
    hd95 = find(report, label="ring", metric="hd95")
    assert hd95["difference"] == pytest.approx(-np.mean([3.0 * vanilla_error(case) for case in CASES[0] + CASES[1]]))
    assert hd95["towards"] == 1
    core = find(report, label="core", metric="dice")
    assert (core["draws"], core["p"], core["verdict"]) == (8, 1.0, "no difference shown")
    assert len(report["secondary"]) == 3 * 5 - 1
    assert report["cost"][SALSTM] == {"epoch_seconds": 12.5, "parameters": 100}
    assert not report["confounders"]
    assert report["inputs"]["reference"] == f"nnUNet_preprocessed/{DATASET}/gt_segmentations"
    assert report["inputs"]["runs"][VANILLA]["1"].startswith(f"nnUNet_results/{DATASET}/{VANILLA}__")
    # Four of eight cases are tested in each fold.
    assert report["overlap"] == 1.0
    with (folders / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 8 * 2
    assert rows[0].keys() >= {"method", "seed", "fold", "case", "label", "dice", "hd95", "nsd", "reference_voxels"}
    output = capsys.readouterr().out
    answer = output.index("- These networks: SALSTM_A is better than nnUNetTrainer in mean Dice")
    assert answer < output.index("| method") < output.index("--all prints them")
    assert "| 95 % interval, networks | 95 % interval, methods | HD95 (mm) | surface Dice | parameters (M) |" in output
    assert "Holm" not in output


def test_details_are_printed_on_demand(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    trainers(folders, VANILLA, SALSTM, options=["--all"])
    output = capsys.readouterr().out
    assert f"- {VANILLA} is {VANILLA}." in output
    for heading in ("Both answers in numbers", "Means by label", "Trainings", "What the numbers mean"):
        assert f"{heading}\n{'-' * len(heading)}" in output
    assert "corrected resampled t test" in " ".join(output.split())
    assert "--all prints them" not in output


@pytest.mark.parametrize(("error", "verdict"), [(0, "better than"), (-4, "worse than")])
def test_a_better_network_is_called_better(folders, error, verdict):
    train(folders / "results", SALSTM, lambda case: error)
    _, report = trainers(folders, VANILLA, SALSTM)
    assert report["sentences"][0].startswith(f"These networks: SALSTM_A is {verdict} nnUNetTrainer in mean Dice")
    assert report["sentences"][1].startswith(
        "The methods: SALSTM_A against nnUNetTrainer cannot be decided from 2 pairs"
    )


def test_the_same_input_gives_the_same_bytes(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    texts = []
    for _ in range(2):
        trainers(folders, VANILLA, SALSTM)
        texts.append((folders / "out" / "compare.json").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.nightly
def test_the_same_input_gives_the_same_page(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    pages = []
    for _ in range(2):
        trainers(folders, VANILLA, SALSTM, options=["--html", folders / "page.html"])
        pages.append((folders / "page.html").read_bytes())
    assert pages[0] == pages[1]


def test_unchanged_files_are_not_scored_again(folders, monkeypatch):
    train(folders / "results", SALSTM, lambda case: 0)
    trainers(folders, VANILLA, SALSTM)
    scored = []
    original = Scoring.read_and_score
    monkeypatch.setattr(Scoring, "read_and_score", lambda self, case: scored.append(case.name) or original(self, case))
    _, before = trainers(folders, VANILLA, SALSTM)
    assert not scored
    write(segmentation(-2), model_of(folders, SALSTM) / "fold_0" / "validation" / "p2_b.nii.gz")
    _, after = trainers(folders, VANILLA, SALSTM)
    assert scored == ["p2_b"]
    assert after["summary"] != before["summary"]
    # No surface is scored, to which the tolerance belongs.
    trainers(folders, VANILLA, SALSTM, options=["--tolerance", "1"])
    assert len(scored) == 1
    trainers(folders, VANILLA, SALSTM, metrics=("--metrics", "nsd", "--tolerance", "1"))
    assert len(scored) == 1 + 16
    assert not list(model_of(folders, SALSTM).rglob("*cache*"))


@pytest.mark.nightly
def test_several_processes_find_the_same(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    _, one = trainers(folders, VANILLA, SALSTM)
    shutil.rmtree(folders / "cache")
    file = folders / "two.json"
    command = ["compare", "-d", DATASET, "-c", "3d_fullres", "-tr", VANILLA, SALSTM, *OVERLAP, "-np", "2"]
    assert main([*command, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["scores"] == one["scores"]


def test_seeds_are_one_method(folders):
    train(folders / "results", f"{SALSTM}_seed0", lambda case: 0)
    train(folders / "results", f"{SALSTM}_seed1", lambda case: 2)
    _, report = trainers(folders, VANILLA, f"{SALSTM}_seed0", f"{SALSTM}_seed1")
    assert {name: method["runs"] for name, method in report["methods"].items()} == {
        VANILLA: [VANILLA],
        SALSTM: [f"{SALSTM}_seed0", f"{SALSTM}_seed1"],
    }
    ring = find(report, label="ring", metric="volume_error")
    assert ring["count"] == 8
    # Errors of one slice on average against one or two.
    assert ring["difference"] == pytest.approx(-3 / 8 * 196 / 872)
    assert report["confounders"] == [f"{SALSTM} was trained 2 times with the same data, {VANILLA} once."]
    # One training against two: the second has no partner.
    verdict = report["verdicts"][SALSTM]
    assert verdict["trainings"] == [4, 2, 2]
    assert verdict["notes"][0].startswith("4 trainings against 2: 2 can be paired within their fold")
    (repeat,) = report["repeats"]
    exact = np.mean([2 * 872 / (2 * 872 + 196 * 2) for _ in range(8)])
    assert (repeat["method"], repeat["first"], repeat["second"]) == ("SALSTM_A", "0", "1")
    assert repeat["networks"]["difference"] == pytest.approx((exact - 1) / 2)
    assert any(sentence.startswith("Noise of this study (A/A)") for sentence in report["sentences"])


def test_the_methods_are_decided_from_matched_trainings(folders):
    for seed in (0, 1):
        train(folders / "results", f"{VANILLA}SALSTMOff_seed{seed}", lambda case: 2)
        train(folders / "results", f"{SALSTM}_seed{seed}", lambda case, seed=seed: int(case == f"p{seed + 1}_a"))
    names = [f"{name}_seed{seed}" for name in (f"{VANILLA}SALSTMOff", SALSTM) for seed in (0, 1)]
    status, report = trainers(folders, *names, options=["-c", "3d_fullres"])
    assert status == 0
    methods = report["verdicts"][SALSTM]["methods"]
    by_training = {
        (row["method"], row["seed"], row["case"]): row["dice"]
        for row in scores(report).values()
        if row["label"] == "ring"
    }
    gaps = [
        np.mean([(by_training[SALSTM, s, c] - by_training[f"{VANILLA}SALSTMOff", s, c]) / 2 for c in CASES[fold]])
        for s in "01"
        for fold in CASES
    ]
    assert (methods["count"], methods["verdict"]) == (4, "better")
    assert methods["difference"] == pytest.approx(np.mean(gaps))
    error = np.std(gaps, ddof=1) * math.sqrt(1 / 4 + 1.0)
    assert methods["p"] == pytest.approx(2 * stats.t.sf(np.mean(gaps) / error, 3))


def test_the_same_method_by_two_names_is_noise(folders):
    other = "nnUNetTrainerSALSTMOff_seed1"
    train(folders / "results", other, lambda case: 1)
    train(folders / "results", SALSTM, lambda case: 0)
    _, report = trainers(folders, VANILLA, SALSTM, other)
    assert report["methods"]["nnUNetTrainerSALSTMOff"]["same_as_baseline"]
    assert not report["methods"][SALSTM]["same_as_baseline"]
    assert any(s.startswith("A/A: SALSTMOff is the same method as nnUNetTrainer") for s in report["sentences"])
    # The A/A pair is no claim: a single method is tested.
    networks = report["verdicts"][SALSTM]["networks"]
    assert networks["p"] == networks["p_uncorrected"]


def test_seeds_alone_are_an_a_a_study(folders):
    names = [f"{SALSTM}_seed{seed}" for seed in (0, 1)]
    for name, error in zip(names, (0, 1), strict=True):
        train(folders / "results", name, lambda case, error=error: error)
    status, report = trainers(folders, *names)
    assert status == 0
    assert list(report["methods"]) == names
    assert report["sentences"][0].startswith("A/A: SALSTM_A_seed1 is the same method as SALSTM_A_seed0, trained again")
    assert {row["verdict"] for row in report["secondary"]} == {"noise (A/A)"}
    assert {row["p_holm"] for row in report["secondary"]} == {None}
    assert "is the noise of the study" in report["sentences"][0]


def test_another_primary_endpoint(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    _, report = trainers(folders, VANILLA, SALSTM, options=["--primary", "hd95:ring"])
    assert report["endpoint"] == {"metric": "hd95", "label": "ring", "margin": 0.5}
    assert report["verdicts"][SALSTM]["networks"]["verdict"] == "better"
    gap = np.mean([3.0 * vanilla_error(case) for case in CASES[0] + CASES[1]])
    assert (
        f"SALSTM_A is better than {VANILLA} in HD95 of ring: 0.00 and {gap:.2f}, difference -{gap:.2f}"
        in report["sentences"][0]
    )
    assert find(report, label="ring", metric="dice")
    assert "HD95 of ring" in capsys.readouterr().out
    _, wide = trainers(folders, VANILLA, SALSTM, options=["--margin", "0.5"])
    assert wide["verdicts"][SALSTM]["networks"]["equivalence"] == "equivalent"


def test_subgroups(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    table = folders / "diagnosis.csv"
    cases = CASES[0] + CASES[1]
    table.write_text("case,age,diagnosis\n" + "".join(f"{c},5,{'ill' if c[1] in '12' else 'well'}\n" for c in cases))
    options = ["--subgroups", table, "diagnosis", "--all"]
    _, report = trainers(folders, VANILLA, SALSTM, options=options)
    ill, well = report["subgroups"]
    assert (ill["subgroup"], ill["count"], well["subgroup"], well["count"]) == ("ill", 4, "well", 4)
    # Ill: wrong by 2, 1, 2, 1 slices; well: 2, 1, 1, 1. The mean over the labels is half of the ring's.
    dice = {error: 2 * 872 / (2 * 872 + 196 * error) for error in (1, 2)}
    assert ill["difference"] == pytest.approx((2 - dice[1] - dice[2]) / 4)
    assert well["difference"] == pytest.approx((4 - 3 * dice[1] - dice[2]) / 8)
    smallest = min(ill["p"], well["p"])
    assert min(ill["p_holm"], well["p_holm"]) == pytest.approx(2 * smallest)
    assert "Subgroups\n---------" in capsys.readouterr().out


def test_published_scores_stand_beside(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    file = folders / "official.csv"
    file.write_text("case,dice,iou\n" + "".join(f"{case},0.9,0.8\n" for case in CASES[0]) + "elsewhere,0.1,0.1\n")
    _, without = trainers(folders, VANILLA, SALSTM)
    _, report = trainers(folders, VANILLA, SALSTM, options=["--published", file, "--all"])
    ours = find(report, "beside_published", method=SALSTM)
    assert (ours["cases"], ours["published"]) == (4, pytest.approx(0.9))
    assert (ours["mean"], ours["difference"]) == (1.0, pytest.approx(0.1))
    assert report["verdicts"] == without["verdicts"]
    assert report["confounders"] == ["official.csv lacks p3_a, p3_b, p4_a, p4_b: 4 of 8 cases are beside it."]
    assert "Beside published scores (other software, part of no verdict)" in capsys.readouterr().out
    options = ["--published", file, "--primary", "iou"]
    _, report = trainers(folders, VANILLA, SALSTM, options=options, metrics=["--metrics", "iou"])
    assert find(report, "beside_published", method=SALSTM)["cases"] == 4


def test_a_table_for_a_paper(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    file = folders / "table.tex"
    assert trainers(folders, VANILLA, SALSTM, options=["--latex", file], metrics=())[0] == 0
    text = file.read_text()
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"SALSTM\_A & \textbf{1.0000 ± 0.0000*} & +0.0" in text
    assert r"\textbf{0.00}" in text  # the smallest distance
    assert r"* these trained networks differ over cases" in " ".join(text.split())
    assert text.count("{") == text.count("}")


def test_monai_is_asked_for_only_where_it_is_needed(folders, monkeypatch, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "monai" else found(name, *rest)
    )
    status, report = trainers(folders, VANILLA, SALSTM, metrics=())
    assert status == 0
    assert {row["metric"] for row in report["summary"]} == {"dice", "iou", "volume_error"}
    assert report["confounders"] == [
        "HD95 and surface Dice are left out, as they are MONAI's, which is not installed: "
        'pip install "nnunetv2-salstm[compare]"'
    ]
    capsys.readouterr()
    for options in (["--metrics", "nsd"], ["--primary", "hd95"]):
        assert trainers(folders, VANILLA, SALSTM, options=options, metrics=())[0] == 1
        assert "are MONAI's; install it with: pip install" in capsys.readouterr().err


def test_what_is_written_can_be_read_back(folders):
    train(folders / "results", f"{SALSTM}_seed0", lambda case: 0)
    train(folders / "results", f"{SALSTM}_seed1", lambda case: 2)
    missed = segmentation(0)
    missed[missed == 2] = 1
    write(missed, model_of(folders, VANILLA) / "fold_0" / "validation" / "p1_a.nii.gz")
    trainers(folders, VANILLA, f"{SALSTM}_seed0", f"{SALSTM}_seed1", metrics=())
    file = folders / "out" / "compare.json"
    assert Comparison.read(file).to_json() == file.read_text()
    for text, message in (
        ("{}", "must be a comparison of format 2, got None; make it anew"),
        ("[]", "holds no a comparison"),
        (file.read_text().replace('"scores": {', '"other": {'), "is damaged: KeyError 'scores'"),
    ):
        damaged = folders / "damaged.json"
        damaged.write_text(text)
        with pytest.raises(SalstmError, match=re.escape(message)):
            Comparison.read(damaged)


def test_groups_are_the_units(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    groups = folders / "groups.csv"
    groups.write_text("case,group\n" + "".join(f"{case},{case[:2]}\n" for case in CASES[0] + CASES[1]))
    _, report = trainers(folders, VANILLA, SALSTM, options=["--groups", groups])
    assert find(report, label="ring", metric="dice")["count"] == 4
    assert any(sentence.startswith("Few groups: 4") for sentence in report["sentences"])
    # Patients 1 to 3 are wrong by two slices and one, patient 4 by one and one.
    found = find(report, label="ring", metric="volume_error")
    assert found["difference"] == pytest.approx(-(3 * 1.5 + 1) / 4 * 196 / 872)
    groups.write_text("case,group\np1_a,1\n")
    assert trainers(folders, VANILLA, SALSTM, options=["--groups", groups])[0] == 1


def test_missing_organs_are_infinite_not_zero(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    missed = segmentation(0)
    missed[missed == 2] = 1
    write(missed, model_of(folders, SALSTM) / "fold_0" / "validation" / "p1_a.nii.gz")
    _, report = trainers(folders, VANILLA, SALSTM, metrics=(), options=["--latex", folders / "table.tex"])
    core = find(report, "summary", method=SALSTM, label="core", metric="hd95")
    assert (core["infinite"], core["finite"], core["mean"]) == (1, 7, 0.0)
    found = find(report, label="core", metric="hd95")
    assert (found["losses"], found["finite"], found["test"]) == (1, 7, "signed-rank")
    assert scores(report)[SALSTM, "", "p1_a", "core"]["hd95"] == "inf"
    mean = find(report, "summary", method=SALSTM, label="mean", metric="hd95")
    assert mean["infinite"] == 1
    overview = capsys.readouterr().out
    assert re.search(r"\| SALSTM_A +\|.* 0\.00 \(1 infinite\) \|", overview)
    # A mean that leaves out what was missed is not the best.
    paper = (folders / "table.tex").read_text()
    assert r"\textbf{" in paper
    assert not re.search(r"textbf\{0.00", paper)
    assert "0.00 (1 infinite)" in paper


def test_absent_structures_are_left_out_and_counted(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    absent = segmentation(0)
    absent[absent == 2] = 1
    write(absent, folders / "preprocessed" / DATASET / "gt_segmentations" / "p1_a.nii.gz")
    write(absent, model_of(folders, SALSTM) / "fold_0" / "validation" / "p1_a.nii.gz")
    _, report = trainers(folders, VANILLA, SALSTM)
    ours, theirs = (find(report, "summary", method=m, label="core", metric="dice") for m in (SALSTM, VANILLA))
    assert (ours["mean"], ours["finite"], ours["infinite"], ours["undefined"]) == (1.0, 7, 0, 1)
    assert (theirs["mean"], theirs["undefined"]) == (pytest.approx(7 / 8), 0)
    assert find(report, label="core", metric="dice")["count"] == 7


def test_what_is_not_like_for_like_is_named(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0, epochs=3)
    file = model_of(folders, SALSTM) / "plans.json"
    file.write_text(file.read_text().replace('"batch_size": 2', '"batch_size": 4'))
    _, report = trainers(folders, VANILLA, SALSTM)
    assert [sentence.partition(" differ in ")[2] for sentence in report["confounders"]] == [
        "epochs: 3 and 2.",
        "plans' batch_size: 4 and 2.",
    ]
    output = capsys.readouterr().out
    assert output.index("Not like for like") < output.index("- These networks: ")


def test_cases_trained_on_and_the_gpu_are_compared(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    for trainer, count, gpu in ((VANILLA, 9, "A100"), (SALSTM, 4, "H100")):
        for fold in model_of(folders, trainer).glob("fold_*"):
            log, debug = fold / "training_log_1.txt", fold / "debug.json"
            log.write_text(f"x: This split has {count} training and 4 validation cases.\n{log.read_text()}")
            debug.write_text(json.dumps({**json.loads(debug.read_text()), "gpu_name": gpu}))
    _, report = trainers(folders, VANILLA, SALSTM)
    assert [sentence.partition(" differ in ")[2] for sentence in report["confounders"]] == [
        "GPU: H100 and A100.",
        "training cases: 4 and 9.",
    ]


def test_a_training_without_its_checkpoint_is_compared(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    (model_of(folders, SALSTM) / "fold_0" / "checkpoint_final.pth").unlink()
    (model_of(folders, SALSTM) / "fold_1" / "checkpoint_final.pth").unlink()
    status, report = trainers(folders, VANILLA, SALSTM)
    assert status == 0
    assert "parameters" not in report["cost"][SALSTM]
    assert report["cost"][VANILLA]["parameters"]


def test_seeds_of_a_method_with_other_splits(folders, capsys):
    """Their trainings could not be paired; it must show before the scoring."""
    seed = f"{SALSTM}_seed1"
    for name in (SALSTM, seed):
        train(folders / "results", name, lambda case: 0)
    folds = [model_of(folders, seed) / f"fold_{fold}" / "validation" for fold in CASES]
    for case, (source, target) in {"p1_a": folds, "p3_a": folds[::-1]}.items():
        (source / f"{case}.nii.gz").rename(target / f"{case}.nii.gz")
    assert trainers(folders, VANILLA, SALSTM, seed)[0] == 1
    error = capsys.readouterr().err
    assert f"{SALSTM} and {seed} are one method" in error
    assert "p1_a is in the folds 0 and 1" in error
    assert "scoring" not in error


def test_nnunets_version_is_compared_where_it_is_known(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    line = "2026-01-01 00:00:00.000000: nnU-Net {} ({})\n"
    for name, known in ((VANILLA, ("2.8.1", "release")), (SALSTM, ("2.8.1", "checkout"))):
        for log in model_of(folders, name).glob("fold_*/training_log_*.txt"):
            log.write_text(line.format(*known) + log.read_text())
    _, report = trainers(folders, VANILLA, SALSTM)
    assert report["confounders"] == [f"{SALSTM} and {VANILLA} differ in nnU-Net: 2.8.1 (checkout) and 2.8.1 (release)."]
    assert {row["nnU-Net"] for row in report["trainings"]} == {"2.8.1 (checkout)", "2.8.1 (release)"}
    (model_of(folders, VANILLA) / "fold_0" / "training_log_1.txt").unlink()
    _, report = trainers(folders, VANILLA, SALSTM)
    assert report["trainings"][0]["nnU-Net"] == "not written"


def test_missing_cases_are_named_and_left_out_on_demand(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    (model_of(folders, SALSTM) / "fold_1" / "validation" / "p4_b.nii.gz").unlink()
    assert trainers(folders, VANILLA, SALSTM)[0] == 1
    assert f"{SALSTM} lacks p4_b. To compare on the 7 common cases, add --common-only" in capsys.readouterr().err
    status, report = trainers(folders, VANILLA, SALSTM, options=["--common-only"])
    assert status == 0
    assert find(report, label="ring", metric="dice")["count"] == 7
    assert report["confounders"] == [f"{SALSTM} lacks p4_b."]


def test_other_splits_are_named(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    folds = [model_of(folders, SALSTM) / f"fold_{fold}" / "validation" for fold in CASES]
    for case, (source, target) in {"p1_a": folds, "p3_a": folds[::-1]}.items():
        (source / f"{case}.nii.gz").rename(target / f"{case}.nii.gz")
    status, report = trainers(folders, VANILLA, SALSTM)
    assert status == 0
    assert report["confounders"] == ["The splits differ: cases are in other folds."]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(b"no image"), "p1_a.nii.gz"),
        (
            lambda file: write(segmentation(0), file, spacing=(1.0, 1.0, 2.0)),
            "the prediction must have its reference's spacing, (1.0, 1.0, 3.0) mm, got (1.0, 1.0, 2.0)",
        ),
        (
            lambda file: write(segmentation(0)[:4], file),
            "the prediction must have its reference's size, 8 x 20 x 20 voxels, got 4 x 20 x 20",
        ),
        (lambda file: write(segmentation(0) * 5, file), "label values must be among 0 to 2, got 5, 10"),
    ],
    ids=["unreadable", "other spacing", "other shape", "other labels"],
)
def test_a_file_that_cannot_be_scored_is_named_and_the_rest_goes_on(folders, damage, reason, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    damage(model_of(folders, SALSTM) / "fold_0" / "validation" / "p1_a.nii.gz")
    status, report = trainers(folders, VANILLA, SALSTM)
    assert status == 1
    error = capsys.readouterr().err
    assert "1 predictions could not be scored" in error
    assert "p1_a.nii.gz" in error
    assert reason in error
    assert find(report, label="ring", metric="dice")["count"] == 7


def test_folders_of_any_method(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    for name in (VANILLA, SALSTM):
        for fold in CASES:
            shutil.copytree(
                model_of(folders, name) / f"fold_{fold}" / "validation", folders / "any" / name, dirs_exist_ok=True
            )
    reference = folders / "preprocessed" / DATASET / "gt_segmentations"
    (folders / "dataset.json").write_text(json.dumps(DATASET_JSON))
    predictions = [f"vanilla={folders / 'any' / VANILLA}", f"ours={folders / 'any' / SALSTM}"]
    options = ["--dataset-json", folders / "dataset.json", "--tolerance", "3.5", "core=1"]
    status, report = compare(folders, "--reference", reference, "-i", *predictions, *options)
    assert status == 0
    assert report["inputs"]["tolerances"] == {"ring": 3.5, "core": 1.0}
    assert find(report, method="ours", label="ring", metric="dice")["wins"] == 8
    assert report["cost"] == {"vanilla": {}, "ours": {}}
    for name in (VANILLA, SALSTM):
        (folders / "any" / name / "p1_a.nii.gz").unlink()
    _, report = compare(folders, "--reference", reference, "-i", *predictions, *options, "--all")
    printed = " ".join(capsys.readouterr().out.split())
    assert "n_test / n_train = 0.25, that of five folds, as what they were trained on is not known; its" in printed
    assert report["confounders"][0] == "1 of 8 references have no prediction and are left out: p1_a."
    other = {**DATASET_JSON, "labels": {"background": 0, "core": 1, "ring": 2}}
    for name, values in ((VANILLA, DATASET_JSON), (SALSTM, other)):
        (folders / "any" / name / "dataset.json").write_text(json.dumps(values))
    assert compare(folders, "--reference", reference, "-i", *predictions)[0] == 1
    assert "have other labels; give the one that is right with --dataset-json" in capsys.readouterr().err
    assert compare(folders, "--reference", reference, "-i", *predictions, *options)[0] == 0


def test_times_and_memory_of_a_benchmark(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    row = {"plan": "p", "configuration": "c", "patch_size": [1], "peak_memory": 10, "inference_tile": [2.0, 4.0, 3.0]}
    bench = {
        "command": "", "repeats": 3, "versions": {}, "hardware": {},
        "measurements": [{**row, "trainer": "nnUNetTrainerSALSTMOff"}, {**row, "trainer": SALSTM, "peak_memory": 11}],
    }  # fmt: skip
    (folders / "bench.json").write_text(json.dumps(bench))
    _, report = trainers(folders, VANILLA, SALSTM, options=["--bench", folders / "bench.json"])
    assert report["cost"][VANILLA].items() >= {"peak_memory": 10, "inference_tile": 3.0}.items()
    assert report["cost"][SALSTM]["peak_memory"] == 11


def test_bad_input_is_one_line(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    base = ["-d", "27", "-c", "3d_fullres", "-tr", VANILLA]
    files = {
        "other": "case,group\nheart_1,1\n",
        "empty": "case,group\np1_a,\n",
        "columns": "case,age,sex\np1_a,1,f\n",
        "dice": "case,dice\np1_a,90.1\n",
        "foreign": "case,dice\nheart_1,0.9\n",
        "twice": "case,group\np1_a,p1\np1_a,p2\n",
    }
    for name, text in files.items():
        (folders / f"{name}.csv").write_text(text)
    (folders / "binary.csv").write_bytes(bytes(range(256)))
    two = [*base, SALSTM]
    tables = [
        (["-d", "27", "-tr", VANILLA, SALSTM], "needs the configuration too"),
        (base, "-tr must name at least two"),
        ([*base, VANILLA], "-tr must name at least two"),
        ([*base, "nnUNetTrainerX"], f"make them with: nnUNetv2_train {DATASET} 3d_fullres FOLD -tr nnUNetTrainerX"),
        ([*two, "-f", "4"], "has no fold 4 (it has 0, 1)"),
        (["-d", "28", *two[2:]], "the data set must be one of nnUNet_results"),
        ([*two, "--tolerance", "-1"], "--tolerance must be MM or LABEL=MM"),
        (
            [*two, "--tolerance", "1", "3"],
            "--tolerance takes one number for all labels, and others as LABEL=MM; got 1 3",
        ),
        ([*two, "--tolerance", "heart=2"], "--tolerance must be MM or LABEL=MM"),
        ([*two, "--margin", "0"], "--margin must be a positive number, got 0"),
        ([*two, "--primary", "accuracy"], "--primary must be METRIC or METRIC:LABEL, with one of dice"),
        ([*two, "--primary", "dice:heart"], "and of ring, core, got 'dice:heart'"),
        ([*two, "--groups", "none.csv"], "--groups none.csv cannot be read: No such file"),
        (
            [*two, "--groups", "other.csv"],
            "it lacks p1_a, p1_b, p2_a, p2_b, p3_a and 3 more; it names for example heart",
        ),
        ([*two, "--groups", "binary.csv"], "it is no text, or a text in another encoding; save it as UTF-8"),
        ([*two, "--groups", "twice.csv"], "--groups twice.csv must name every case once, got twice: p1_a"),
        ([*two, "--groups", "dice.csv"], "must have the columns case and group, it lacks group"),
        ([*two, "--subgroups", "columns.csv"], "has the columns case, age, sex; name the one that is meant"),
        ([*two, "--subgroups", "columns.csv", "weight"], "must have the columns case and weight, it lacks weight"),
        ([*two, "--subgroups", "columns.csv", "age", "sex"], "takes a CSV file and one of its columns"),
        ([*two, "--published", "columns.csv"], "must have the columns case and dice, it lacks dice"),
        ([*two, "--published", "dice.csv"], "dice must be a number from 0 to 1, got '90.1' for p1_a"),
        (
            [*two, "--published", "foreign.csv"],
            "names none of the cases, it has for example heart_1, these results p1_a",
        ),
        ([*two, "--bench", "none.json"], "there is no file of a benchmark at none.json"),
        ([*two, "--bench", "bench.json"], "--bench bench.json is no JSON file of nnUNetv2_salstm bench"),
        ([*two, "--reference", "x"], "not both"),
        ([], "give a data set"),
        (["--reference", "x", "-i", "a=b", "c=d", "-c", "2d"], "-c is of trainings, and -i gives folders; leave it"),
        (["--reference", "x", "-i", "a=b", "c=d", "-f", "0"], "-f is of trainings"),
        (["--reference", "x", "-i", "a=b", "c=d", "-tr", "nnUNetTrainer"], "-tr is of trainings"),
        ([*two, "--dataset-json", "x.json"], "--dataset-json is for predictions in folders (-i)"),
        ([*two, "--images", "x"], "--images is for predictions in folders (-i)"),
        ([*two, "--csv", "out.csv", "--latex", "./out.csv"], "out.csv is named for two results"),
        (["--reference", "x", "-i", "a"], "-i must be NAME=DIR"),
        (["--reference", "x", "-i", "a=b"], "at least two folders"),
        (["--reference", "x", "-i", "a=b", "c=d"], "there is no such folder"),
        ([*two, "--html", f"{folders}/dice.csv/page.html"], "page.html cannot be written: "),
    ]
    (folders / "bench.json").write_text("{}")
    before = sorted(folders.iterdir())
    for arguments, message in tables:
        with contextlib.chdir(folders):
            assert main(["compare", *arguments]) == 1, arguments
        error = [line for line in capsys.readouterr().err.splitlines() if "case" not in line or "scoring" not in line]
        assert message in error[-1], arguments
    assert sorted(set(folders.iterdir()) - {folders / "cache"}) == before


def test_an_unfinished_fold_says_how_to_go_on(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    fold = model_of(folders, SALSTM) / "fold_1"
    (fold / "validation" / "summary.json").unlink()
    assert trainers(folders, VANILLA, SALSTM)[0] == 1
    assert f"go on with: nnUNetv2_train {DATASET} 3d_fullres 1 -tr {SALSTM} --val" in capsys.readouterr().err
    (fold / "checkpoint_final.pth").unlink()
    assert trainers(folders, VANILLA, SALSTM)[0] == 1
    assert f"-tr {SALSTM} --c" in capsys.readouterr().err
    assert trainers(folders, VANILLA, SALSTM, options=["-f", "0"])[0] == 0


def test_predictions_of_another_data_set(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    other = folders / "other"
    for name in ("a", "b"):
        write(segmentation(0), other / name / "heart_1.nii.gz")
        (other / name / "dataset.json").write_text(json.dumps(DATASET_JSON))
    reference = folders / "preprocessed" / DATASET / "gt_segmentations"
    arguments = ["--reference", reference, "-i", f"a={other / 'a'}", f"b={other / 'b'}"]
    assert compare(folders, *arguments)[0] == 1
    assert "has no reference for heart_1; are these the predictions of another data set?" in capsys.readouterr().err


def test_the_log_of_a_continued_training(tmp_path):
    (tmp_path / "training_log_1.txt").write_text(LOG.format(seconds=11.0))
    again = LOG.format(seconds=13.0)
    (tmp_path / "training_log_2.txt").write_text(again[again.index("2026", again.index("10.0 s")) :])
    log = TrainingLog.read(tmp_path)
    assert log.epoch_seconds == {0: 10.0, 1: 13.0}
    assert log.train_loss == {0: 0.5, 1: -0.5}
    assert log.val_loss == {0: 0.4, 1: -0.4}
    assert log.pseudo_dice == pytest.approx({0: 0.5, 1: 0.6})


def test_logs_are_read_in_the_order_of_time(tmp_path):
    # Months, days and hours without leading zeros, as nnU-Net names them.
    names = ["2025_9_30_23_05_01", "2025_11_9_08_00_00", "2025_11_10_07_00_00", "2025_11_10_23_00_00"]
    for seconds, name in enumerate(names):
        (tmp_path / f"training_log_{name}.txt").write_text(LOG.format(seconds=float(seconds)))
    log = TrainingLog.read(tmp_path)
    assert log.epoch_seconds[1] == 3.0
    assert log.repeated_seconds == [10.0, 0.0, 10.0, 1.0, 10.0, 2.0]


class Elements(HTMLParser):
    """Collects the elements of a page and checks that they are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.found = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_needs_nothing_else_and_shows_the_cases(folders):
    other = "nnUNetTrainerSALSTM_B"
    train(folders / "results", SALSTM, lambda case: 2 if case == "p4_a" else 0)
    train(folders / "results", other, vanilla_error)
    generator = np.random.default_rng(0)
    for case in CASES[0] + CASES[1]:
        image = generator.normal(size=(8, 20, 20)).astype(np.float32)
        write(image, folders / "raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz")
    page = folders / "page.html"
    status, report = trainers(folders, VANILLA, SALSTM, other, options=["--html", page])
    assert status == 0
    text = page.read_text()
    elements = Elements(text)
    assert not elements.open
    addresses = [attributes[name] for _, attributes in elements.found for name in ("src", "href") if name in attributes]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    pictures = [attributes["alt"] for tag, attributes in elements.found if tag == "img"]
    # The three most improved cases, then the worsened one; the method that equals vanilla has none.
    assert pictures == ["p1_a", "p2_a", "p3_a", "p4_a"]
    assert sum(tag == "svg" for tag, _ in elements.found) == 4
    for sentence in report["sentences"]:
        assert escape(sentence) in text
    # The answer first, details behind a click.
    order = [
        text.index(part) for part in ('class="highlight"', "<table>", "<svg", "<details>", "What the numbers mean")
    ]
    assert order == sorted(order)


def test_the_page_where_only_another_seed_differs(folders):
    train(folders / "results", f"{SALSTM}_seed0", vanilla_error)
    train(folders / "results", f"{SALSTM}_seed1", lambda case: 0)
    page = folders / "page.html"
    assert trainers(folders, VANILLA, f"{SALSTM}_seed0", f"{SALSTM}_seed1", options=["--html", page])[0] == 0
    assert sum(tag == "img" for tag, _ in Elements(page.read_text()).found) == 3


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.nightly
def test_the_page_in_a_browser(folders):
    # Names as long as trainers' names are, methods as many as there are controls.
    others = [f"nnUNetTrainer{name}_100epochs_seed0" for name in ("SALSTM_A", "SALSTMConvControl", "BDCLSTM")]
    for trainer in others:
        train(folders / "results", trainer, lambda case: 0, epochs=100)
    page = folders / "page.html"
    assert trainers(folders, VANILLA, *others, options=["--html", page])[0] == 0
    measure = (
        "<script>document.title = `width ${document.documentElement.scrollWidth} of ${innerWidth}`</script></body>"
    )
    page.write_text(page.read_text().replace("</body>", measure))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--virtual-time-budget=5000"]
    command = [BROWSER, *options, "--enable-logging=stderr", f"--user-data-dir={folders}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    width, available = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", done.stdout).groups())
    assert width <= available <= 1280
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize("raw", ["no variable", pytest.param("an empty folder", marks=pytest.mark.nightly)])
def test_the_page_without_images_and_logs(folders, monkeypatch, capsys, raw):
    if raw == "no variable":
        monkeypatch.delenv("nnUNet_raw")
    train(folders / "results", SALSTM, lambda case: 0)
    for log in folders.rglob("training_log_*.txt"):
        log.unlink()
    page = folders / "page.html"
    assert trainers(folders, VANILLA, SALSTM, options=["--html", page])[0] == 0
    assert "There are no images to show" in capsys.readouterr().out
    elements = Elements(page.read_text())
    assert sum(tag == "svg" for tag, _ in elements.found) == 3
    assert sum(tag == "img" for tag, _ in elements.found) == 3


def test_methods_keep_the_order_of_their_runs(tmp_path):
    runs = runs_of_folders(dict.fromkeys(["b_seed1", "a", "b_seed0", "c"], tmp_path))
    assert [(method, [run.name for run in own]) for method, own in methods_of(runs).items()] == [
        ("b", ["b_seed1", "b_seed0"]),
        ("a", ["a"]),
        ("c", ["c"]),
    ]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["nnUNetTrainerX_5epochs_2its", "nnUNetTrainerY_5epochs_2its"], ["X", "Y"]),
        (["nnUNetTrainerX_5epochs", "nnUNetTrainerY_6epochs"], ["X_5epochs", "Y_6epochs"]),
        (["nnUNetTrainer", "nnUNetTrainerX"], ["nnUNetTrainer", "X"]),
        (["nnUNetTrainerX", "X"], ["nnUNetTrainerX", "X"]),
    ],
)
def test_names_in_tables_leave_out_what_all_share(names, short):
    assert list(short_names(names).values()) == short


def test_json_has_no_infinity(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    for case in CASES[0]:
        write(np.zeros((8, 20, 20), np.uint8), model_of(folders, SALSTM) / "fold_0" / "validation" / f"{case}.nii.gz")
    _, report = trainers(folders, VANILLA, SALSTM)

    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        return [n for item in value for n in numbers(item)] if isinstance(value, list) else [value]

    assert all(math.isfinite(number) for number in numbers(report) if isinstance(number, float))
