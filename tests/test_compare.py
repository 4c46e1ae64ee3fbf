"""`nnUNetv2_salstm compare` on results folders like those that nnU-Net leaves behind."""

import csv
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

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.evaluation.runs import Arm, TrainingLog, arms_of, runs_of_folders, short_names
from nnunetv2_salstm.evaluation.scoring import Scoring

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
2026-01-01 00:00:00.000000: Pseudo dice [np.float32(0.25), np.float32(0.75), np.float32(nan)]
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
    status = main(["compare", *map(str, arguments), "--json", str(file), "--processes", "1"])
    return status, json.loads(file.read_text()) if file.exists() else None


def trainers(folder, *names, options=()):
    return compare(folder, "27", "-c", "3d_fullres", "--trainers", *names, *options)


def find(report, **wanted):
    (found,) = [row for row in report["comparisons"] if wanted.items() <= row.items()]
    return found


def model_of(folder, trainer):
    return folder / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"


def test_numbers_of_an_arm_without_errors(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0, seconds=15.0)
    status, report = trainers(folders, VANILLA, SALSTM, options=["--csv", folders / "cases.csv"])
    assert status == 0
    ring = find(report, label="ring", metric="dice")
    assert (ring["wins"], ring["draws"], ring["losses"], ring["units"]) == (8, 0, 0, 8)
    # Ring and core: 5 slices of 14 x 14, of which the core has 3 of 6 x 6; an error adds slices of 14 x 14.
    exact = [2 * 872 / (2 * 872 + 196 * vanilla_error(case)) for cases in CASES.values() for case in cases]
    assert ring["mean_difference"] == pytest.approx(1 - np.mean(exact))
    assert ring["p"] == pytest.approx(2 / 2**8)
    hd95 = find(report, label="ring", metric="hd95")
    assert hd95["mean_difference"] == pytest.approx(
        -np.mean([3.0 * vanilla_error(case) for case in CASES[0] + CASES[1]])
    )
    core = find(report, label="core", metric="dice")
    assert (core["draws"], core["p"], core["verdict"]) == (8, 1.0, "no difference shown")
    assert len(report["comparisons"]) == 3 * 5
    assert report["cost"][SALSTM] == {"epoch_seconds": 12.5, "parameters": 100}
    assert not report["not_like_for_like"]
    assert report["inputs"]["reference"] == f"nnUNet_preprocessed/{DATASET}/gt_segmentations"
    assert report["inputs"]["runs"][VANILLA]["1"].startswith(f"nnUNet_results/{DATASET}/{VANILLA}__")
    output = capsys.readouterr().out
    # Eight cases are too few to show anything in fifteen tests.
    assert "- SALSTM_A: no difference shown against nnUNetTrainer in Dice (mean over labels). 1.0000 and 0." in output
    assert f"- {VANILLA} is {VANILLA}; SALSTM_A is {SALSTM}.\n" in output
    assert "difference in fold 1" in output
    with (folders / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 8 * 2
    assert rows[0].keys() >= {"arm", "fold", "case", "label", "dice", "hd95", "nsd", "volume_error", "reference_voxels"}


@pytest.mark.parametrize(("error", "verdict"), [(0, "better than"), (-4, "worse than")])
def test_a_better_arm_is_called_better(folders, monkeypatch, error, verdict):
    monkeypatch.setattr("nnunetv2_salstm.evaluation.results.holm", dict)  # as if it were the only test
    train(folders / "results", SALSTM, lambda case: error)
    _, report = trainers(folders, VANILLA, SALSTM)
    (sentence,) = report["verdicts"]
    assert sentence.startswith(f"SALSTM_A: {verdict} nnUNetTrainer in Dice (mean over labels)")


def test_the_same_input_gives_the_same_bytes(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    texts = []
    for _ in range(2):
        trainers(folders, VANILLA, SALSTM)
        texts.append((folders / "out" / "compare.json").read_bytes())
    assert texts[0] == texts[1]


def test_unchanged_files_are_not_scored_again(folders, monkeypatch):
    train(folders / "results", SALSTM, lambda case: 0)
    trainers(folders, VANILLA, SALSTM)
    scored = []
    original = Scoring.read_and_score
    monkeypatch.setattr(Scoring, "read_and_score", lambda self, case: scored.append(case.name) or original(self, case))
    _, before = trainers(folders, VANILLA, SALSTM)
    assert not scored
    write(segmentation(2), model_of(folders, SALSTM) / "fold_0" / "validation" / "p2_b.nii.gz")
    _, after = trainers(folders, VANILLA, SALSTM)
    assert scored == ["p2_b"]
    assert after["summary"] != before["summary"]
    trainers(folders, VANILLA, SALSTM, options=["--tolerance", "1"])
    assert len(scored) == 1 + 16
    assert not list(model_of(folders, SALSTM).rglob("*cache*"))


@pytest.mark.slow
def test_several_processes_find_the_same(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    _, one = trainers(folders, VANILLA, SALSTM)
    shutil.rmtree(folders / "cache")
    file = folders / "two.json"
    command = ["compare", DATASET, "-c", "3d_fullres", "--trainers", VANILLA, SALSTM, "--processes", "2"]
    assert main([*command, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["cases"] == one["cases"]


def test_seeds_are_one_arm(folders):
    train(folders / "results", f"{SALSTM}_seed0", lambda case: 0)
    train(folders / "results", f"{SALSTM}_seed1", lambda case: 2)
    _, report = trainers(folders, VANILLA, f"{SALSTM}_seed0", f"{SALSTM}_seed1")
    assert report["arms"] == {VANILLA: [VANILLA], SALSTM: [f"{SALSTM}_seed0", f"{SALSTM}_seed1"]}
    ring = find(report, label="ring", metric="volume_error")
    assert ring["units"] == 8
    # Errors of one slice on average against one or two.
    assert ring["mean_difference"] == pytest.approx(-3 / 8 * 196 / 872)
    assert any("trained 2 times" in sentence for sentence in report["not_like_for_like"])


def test_groups_are_the_units(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    groups = folders / "groups.csv"
    groups.write_text("case,group\n" + "".join(f"{case},{case[:2]}\n" for case in CASES[0] + CASES[1]))
    _, report = trainers(folders, VANILLA, SALSTM, options=["--groups", groups])
    assert find(report, label="ring", metric="dice")["units"] == 4
    # Patients 1 to 3 are wrong by two slices and one, patient 4 by one and one.
    found = find(report, label="ring", metric="volume_error")
    assert found["mean_difference"] == pytest.approx(-(3 * 1.5 + 1) / 4 * 196 / 872)
    groups.write_text("case,group\np1_a,1\n")
    assert trainers(folders, VANILLA, SALSTM, options=["--groups", groups])[0] == 1


def test_missing_organs_are_infinite_not_zero(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    missed = segmentation(0)
    missed[missed == 2] = 1
    write(missed, model_of(folders, SALSTM) / "fold_0" / "validation" / "p1_a.nii.gz")
    _, report = trainers(folders, VANILLA, SALSTM)
    core = report["summary"][SALSTM]["core"]["hd95"]
    assert (core["infinite"], core["finite"], core["mean"]) == (1, 7, 0.0)
    found = find(report, label="core", metric="hd95")
    assert (found["losses"], found["finite"]) == (1, 7)
    (case,) = [case for case in report["cases"] if case["run"] == SALSTM and case["case"] == "p1_a"]
    assert case["labels"]["core"]["hd95"] is None
    assert case["labels"]["core"]["infinite"] == ["hd95"]


def test_absent_structures_are_left_out_and_counted(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    absent = segmentation(0)
    absent[absent == 2] = 1
    write(absent, folders / "preprocessed" / DATASET / "gt_segmentations" / "p1_a.nii.gz")
    write(absent, model_of(folders, SALSTM) / "fold_0" / "validation" / "p1_a.nii.gz")
    _, report = trainers(folders, VANILLA, SALSTM)
    assert report["summary"][SALSTM]["core"]["dice"] == {"mean": 1.0, "finite": 7, "infinite": 0, "undefined": 1}
    assert report["summary"][VANILLA]["core"]["dice"]["undefined"] == 0
    assert report["summary"][VANILLA]["core"]["dice"]["mean"] == pytest.approx(7 / 8)
    assert find(report, label="core", metric="dice")["units"] == 7


def test_arms_that_are_not_like_for_like_are_named(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0, epochs=3)
    file = model_of(folders, SALSTM) / "plans.json"
    file.write_text(file.read_text().replace('"batch_size": 2', '"batch_size": 4'))
    _, report = trainers(folders, VANILLA, SALSTM)
    assert [sentence.partition(" differ in ")[2] for sentence in report["not_like_for_like"]] == [
        "epochs: 3 and 2.",
        "plans' batch_size: 4 and 2.",
    ]
    output = capsys.readouterr().out
    assert output.index("Not like for like") < output.index("- SALSTM_A: ")


def test_missing_cases_are_named_and_left_out_on_demand(folders, capsys):
    train(folders / "results", SALSTM, lambda case: 0)
    (model_of(folders, SALSTM) / "fold_1" / "validation" / "p4_b.nii.gz").unlink()
    assert trainers(folders, VANILLA, SALSTM)[0] == 1
    assert f"{SALSTM} lacks p4_b. To compare on the 7 common cases, add --common-only" in capsys.readouterr().err
    status, report = trainers(folders, VANILLA, SALSTM, options=["--common-only"])
    assert status == 0
    assert find(report, label="ring", metric="dice")["units"] == 7
    assert report["not_like_for_like"] == [f"{SALSTM} lacks p4_b."]


def test_other_splits_are_named(folders):
    train(folders / "results", SALSTM, lambda case: 0)
    folds = [model_of(folders, SALSTM) / f"fold_{fold}" / "validation" for fold in CASES]
    for case, (source, target) in {"p1_a": folds, "p3_a": folds[::-1]}.items():
        (source / f"{case}.nii.gz").rename(target / f"{case}.nii.gz")
    status, report = trainers(folders, VANILLA, SALSTM)
    assert status == 0
    assert report["not_like_for_like"] == ["The splits differ: cases are in other folds."]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(b"no image"), "p1_a.nii.gz"),
        (lambda file: write(segmentation(0), file, spacing=(1.0, 1.0, 2.0)), "of the prediction is"),
        (
            lambda file: write(segmentation(0)[:4], file),
            "the prediction has the shape (4, 20, 20), its reference (8, 20, 20)",
        ),
        (lambda file: write(segmentation(0) * 5, file), "has the values [5, 10], which are not labels"),
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
    assert find(report, label="ring", metric="dice")["units"] == 7


def test_folders_of_any_method(folders):
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
    status, report = compare(folders, "--reference", reference, "--predictions", *predictions, *options)
    assert status == 0
    assert report["inputs"]["tolerances"] == {"ring": 3.5, "core": 1.0}
    assert find(report, arm="ours", label="ring", metric="dice")["wins"] == 8
    assert report["cost"] == {"vanilla": {}, "ours": {}}


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
    base = ["27", "-c", "3d_fullres", "--trainers", VANILLA]
    tables = [
        (["27", "--trainers", VANILLA, SALSTM], "needs the configuration too"),
        (base, "--trainers must name at least two"),
        ([*base, VANILLA], "name another trainer to compare with"),
        ([*base, "nnUNetTrainerX"], f"make them with: nnUNetv2_train {DATASET} 3d_fullres FOLD -tr nnUNetTrainerX"),
        ([*base, SALSTM, "-f", "4"], "has no fold 4 (it has 0, 1)"),
        (["28", *base[1:], SALSTM], "the data set must be one of nnUNet_results"),
        ([*base, SALSTM, "--tolerance", "-1"], "--tolerance must be MM or LABEL=MM"),
        ([*base, SALSTM, "--tolerance", "heart=2"], "--tolerance must be MM or LABEL=MM"),
        ([*base, SALSTM, "--groups", str(folders / "none.csv")], "cannot be read"),
        ([*base, SALSTM, "--bench", str(folders / "none.json")], "is no JSON file of nnUNetv2_salstm bench"),
        ([*base, SALSTM, "--reference", "x"], "not both"),
        ([], "give a data set"),
        (["--reference", "x", "--predictions", "a"], "--predictions must be NAME=DIR"),
        (["--reference", "x", "--predictions", "a=b"], "at least two folders"),
        (["--reference", "x", "--predictions", "a=b", "c=d"], "there is no such folder"),
    ]
    for arguments, message in tables:
        assert main(["compare", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert message in error, arguments
        assert error.count("\n") == 1


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
    arguments = ["--reference", reference, "--predictions", f"a={other / 'a'}", f"b={other / 'b'}"]
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
    pages = []
    for _ in range(2):
        status, report = trainers(folders, VANILLA, SALSTM, other, options=["--html", page])
        assert status == 0
        pages.append(page.read_text())
    assert pages[0] == pages[1]
    elements = Elements(pages[0])
    assert not elements.open
    addresses = [attributes[name] for _, attributes in elements.found for name in ("src", "href") if name in attributes]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    pictures = [attributes["alt"] for tag, attributes in elements.found if tag == "img"]
    # The three most improved cases, then the worsened one; the arm that equals vanilla has none.
    assert pictures == ["p1_a", "p2_a", "p3_a", "p4_a"]
    assert sum(tag == "svg" for tag, _ in elements.found) == 3
    for sentence in report["verdicts"]:
        assert escape(sentence) in pages[0]


def test_the_page_where_only_another_seed_differs(folders):
    train(folders / "results", f"{SALSTM}_seed0", vanilla_error)
    train(folders / "results", f"{SALSTM}_seed1", lambda case: 0)
    page = folders / "page.html"
    assert trainers(folders, VANILLA, f"{SALSTM}_seed0", f"{SALSTM}_seed1", options=["--html", page])[0] == 0
    assert sum(tag == "img" for tag, _ in Elements(page.read_text()).found) == 3


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.slow
def test_the_page_in_a_browser(folders):
    # Names as long as trainers' names are, arms as many as there are controls.
    others = [f"nnUNetTrainer{arm}_100epochs_seed0" for arm in ("SALSTM_A", "SALSTMConvControl", "BDCLSTM")]
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


@pytest.mark.parametrize("raw", ["no variable", "an empty folder"])
def test_the_page_without_images_and_logs(folders, monkeypatch, capsys, raw):
    if raw == "no variable":
        monkeypatch.delenv("nnUNet_raw")
    train(folders / "results", SALSTM, lambda case: 0)
    for log in folders.rglob("training_log_*.txt"):
        log.unlink()
    page = folders / "page.html"
    assert trainers(folders, VANILLA, SALSTM, options=["--html", page])[0] == 0
    assert "The page will show no images" in capsys.readouterr().out
    elements = Elements(page.read_text())
    assert sum(tag == "svg" for tag, _ in elements.found) == 2
    assert sum(tag == "img" for tag, _ in elements.found) == 3


def test_arms_keep_the_order_of_their_runs(tmp_path):
    runs = runs_of_folders(dict.fromkeys(["b_seed1", "a", "b_seed0", "c"], tmp_path))
    assert [(arm.name, [run.name for run in arm.runs]) for arm in arms_of(runs)] == [
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
    assert list(short_names([Arm(name, []) for name in names]).values()) == short


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
