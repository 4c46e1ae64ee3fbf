"""`nnUNetv2_salstm demo`: its phantoms, its folder, what it says, and the whole of it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_salstm import cli
from nnunetv2_salstm.commands import demo_folder as folder_module
from nnunetv2_salstm.commands import demo_stages as stages
from nnunetv2_salstm.commands.demo_folder import claim_folder, explained
from nnunetv2_salstm.commands.demo_stages import FULL, METHODS, QUICK
from nnunetv2_salstm.converters.phantom import DATASET, SLICE_SPACING, STRUCTURES, make_case, write_dataset
from nnunetv2_salstm.evaluation.demo import read_result, results_frame
from nnunetv2_salstm.evaluation.runs import TrainingLog
from nnunetv2_salstm.host import versions as machine
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write
from nnunetv2_salstm.reporting.demo import demo_document, draw_prediction
from nnunetv2_salstm.reporting.document import to_html, to_markdown, to_terminal

TINY = "training_cases=5, test_cases=1, slices=4, edge=32, epochs=100, iterations=2"


# Phantoms


def test_phantom_depends_on_seed_and_index_alone():
    image, labels = make_case(0, 3, 6, 40)
    again_image, again_labels = make_case(0, 3, 6, 40)
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(labels, again_labels)
    for other in (make_case(0, 4, 6, 40), make_case(1, 3, 6, 40)):
        assert (labels != other[1]).mean() > 0.02


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["quick", "full"])
def test_phantom_looks_like_a_heart(settings, index):
    image, labels = make_case(0, index, settings.slices, settings.edge)
    assert image.shape == labels.shape == (settings.slices, settings.edge, settings.edge)
    assert set(np.unique(labels)) == {0, *STRUCTURES.values()}
    volumes = {name: (labels == label).mean() for name, label in STRUCTURES.items()}
    assert all(0.01 < volume < 0.15 for volume in volumes.values()), volumes
    heart = np.flatnonzero(labels.any((1, 2)))
    assert len(heart) >= 4
    assert labels[heart[0]].astype(bool).sum() > 1.5 * labels[heart[-1]].astype(bool).sum(), "narrows towards the apex"
    # The ring of myocardium is closed: nothing else is next to the left ventricle in its slice.
    cavity = np.pad(labels == STRUCTURES["LV"], ((0, 0), (1, 1), (1, 1)))
    neighbours = np.roll(cavity, 1, 1) | np.roll(cavity, -1, 1) | np.roll(cavity, 1, 2) | np.roll(cavity, -1, 2)
    ring = labels[neighbours[:, 1:-1, 1:-1] & (labels != STRUCTURES["LV"])]
    assert (ring == STRUCTURES["MYO"]).mean() > 0.99


def test_phantoms_cannot_be_told_apart_by_intensity():
    """The best single threshold between cavity and everything else stays far from a segmentation."""
    image, labels = make_case(0, 1, FULL.slices, FULL.edge)
    cavity = labels == STRUCTURES["LV"]
    scores = []
    for threshold in np.percentile(image, range(50, 100, 2)):
        found = image > threshold
        scores.append(2 * (found & cavity).sum() / (found.sum() + cavity.sum()))
    assert max(scores) < 0.6


def test_dataset_is_one_for_nnunet(tmp_path):
    names = list(write_dataset(tmp_path, 0, 3, 2, 6, 40))
    assert names == [f"phantom_{index:03d}" for index in range(5)]
    image = sitk.ReadImage(str(tmp_path / DATASET / "imagesTr" / "phantom_000_0000.nii.gz"))
    labels = sitk.ReadImage(str(tmp_path / DATASET / "labelsTr" / "phantom_000.nii.gz"))
    assert image.GetSpacing() == labels.GetSpacing() == pytest.approx((2.4, 2.4, SLICE_SPACING))
    assert image.GetSize() == labels.GetSize() == (40, 40, 5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), make_case(0, 0, 5, 40)[0])

    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    description = json.loads((tmp_path / DATASET / "dataset.json").read_text())
    files = get_filenames_of_train_images_and_targets(str(tmp_path / DATASET), description)
    assert len(files) == description["numTraining"] == 3
    assert LabelManager(description["labels"], None).foreground_labels == list(STRUCTURES.values())
    for case in files.values():
        assert check_cases(case["images"], case["label"], 1, SimpleITKIO)
    for case in ("phantom_003", "phantom_004"):
        assert (tmp_path / DATASET / "imagesTs" / f"{case}_0000.nii.gz").is_file()
        assert (tmp_path / DATASET / "labelsTs" / f"{case}.nii.gz").is_file()


# The folder


def test_folder_is_claimed_once_and_recognised_again(tmp_path):
    out = tmp_path / "new" / "folder"
    for _ in range(2):
        claim_folder(out, {"edge": 40}, disk=1)
    assert json.loads((out / "demo.json").read_text()) == {"edge": 40}
    assert [file.name for file in out.iterdir()] == ["demo.json"]


def test_folder_of_other_settings_names_them_and_the_way_out(tmp_path):
    claim_folder(tmp_path / "out", {"edge": 40, "epochs": 5}, disk=1)
    with pytest.raises(SalstmError, match=r"\{'edge': 40\} there, \{'edge': 56\} now; delete it, or .* -o"):
        claim_folder(tmp_path / "out", {"edge": 56, "epochs": 5}, disk=1)
    (tmp_path / "out" / "demo.json").write_text("{")
    with pytest.raises(SalstmError, match=r"demo\.json is not JSON"):
        claim_folder(tmp_path / "out", {"edge": 40, "epochs": 5}, disk=1)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "holds something else; choose a new or empty folder with -o"),
        ("file", "file: Not a directory; free some room, or choose another folder with -o"),
        ("file/below", "Not a directory"),
        ("/proc/nnunetv2_salstm", "cannot write to /proc/nnunetv2_salstm: No such file or directory"),
    ],
)
def test_demo_without_a_folder_to_write_to_is_one_line(out, message, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["demo", "--quick", "-o", str(tmp_path / out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_demo_on_a_disk_that_is_too_small_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    assert cli.main(["demo", "--quick", "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "has room for 3 MB but the demo needs 500 MB" in error
    assert error.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError], ids=lambda stop: stop.__name__)
def test_what_is_interrupted_leaves_the_earlier_file_and_nothing_else(stop, tmp_path):
    def write(name, content):
        with atomic_write(tmp_path / name) as unfinished:
            content(unfinished)
            raise stop

    def fill_folder(folder):
        folder.mkdir()
        (folder / "half").touch()

    (tmp_path / "file").write_text("earlier")
    with pytest.raises(stop):
        write("file", lambda unfinished: unfinished.write_text("half"))
    with pytest.raises(stop):
        write("folder", fill_folder)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "earlier"


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / "unfinished.folder").mkdir()
    (tmp_path / "unfinished.folder" / "half").touch()
    with atomic_write(tmp_path / "folder") as unfinished:
        assert not unfinished.exists()
        unfinished.mkdir()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_full_disk_is_explained_and_a_defect_is_not():
    with pytest.raises(SalstmError, match=r"cannot write to /data: No space left on device; free some room"):
        with explained(Path("/data")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), explained(Path("/data")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/defect")


# Requirements


def test_cuda_without_a_gpu_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["demo", "-device", "cuda", "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nnUNetv2_salstm demo: -device cuda needs a GPU")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert not (tmp_path / "out").exists()


def test_an_nnunet_without_trainers_by_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "version", lambda package: "2.7.1")
    assert cli.main(["demo", "-o", str(tmp_path / "out")]) == 1
    assert "needs nnU-Net 2.8 or newer, which finds trainers by name, got 2.7.1" in capsys.readouterr().err


# Progress


# nnU-Net ends a line with a blank.
LOG = "".join(
    f"2026-01-01 10:00:00.000000: {line} \n"
    for line in (
        *("Epoch 0", "Current learning rate: 0.01", "train_loss 0.5", "val_loss 0.1"),
        *("Pseudo dice [np.float32(0.25), 1e-04, nan]", "Epoch time: 19.0 s"),
        *("Epoch 1", "Current learning rate: 0.01", "train_loss -0.1", "val_loss 0.1"),
        *("Pseudo dice [0.5, 0.5, 0.5]", "Epoch time: 10.0 s", "Training done."),
    )
)


def test_epochs_are_shown_as_nnunet_logs_them(tmp_path, monkeypatch, capsys):
    demo = stages._Demo(tmp_path, QUICK, "cpu")
    fold = demo.model(QUICK.trainer("stock")) / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_2025.txt").write_text(LOG)  # of an earlier run
    (fold / "checkpoint_final.pth").touch()
    called, printed = [], []

    def train(name, *arguments, log, environment, while_waiting):
        called.append([name, *arguments])
        # The first epoch has ended and is not saved; it is, and the second one has not ended; all is done.
        for end in (LOG.index(" Epoch 1"), LOG.index("Epoch time: 10.0"), len(LOG)):
            (fold / "training_log_2026.txt").write_text(LOG[:end])
            while_waiting()
            printed.append(capsys.readouterr().out)

    monkeypatch.setattr(stages, "run_nnunet", train)
    demo.train("stock")
    # The training has ended, only its validation is missing.
    trainer = "nnUNetTrainerSALSTMOff_5epochs_20its_seed0"
    assert called == [["nnUNetv2_train", "999", "3d_fullres", "0", "-tr", trainer, "-device", "cpu", "--val"]]
    assert printed == [
        f"[1/6] Train stock: nnUNetv2_train -tr {trainer}\n",
        "      epoch 1/5  loss  0.500  Dice on validation patches RV 0.25  MYO 0.00  LV nan  19 s\n",
        "      epoch 2/5  loss -0.100  Dice on validation patches RV 0.50  MYO 0.50  LV 0.50  10 s\n",
    ]


def test_console_is_never_silent_for_long(monkeypatch, capsys):
    monkeypatch.setattr(stages, "SILENCE", 0.1)
    console = stages._Console(1)
    console.stage("Train")
    console.show_life()
    time.sleep(0.2)
    console.show_life()
    assert capsys.readouterr().out == "[1/1] Train\n      ... still at it, 0 s\n"


# Report and figure


@pytest.fixture
def results(tmp_path):
    (tmp_path / "training_log_1.txt").write_text(LOG.replace("Training done.", "Epoch 2") + ": Epoch time: 8.0 s\n")
    log = TrainingLog.read(tmp_path)

    def result(method, dice, parameters, case_dice):
        mean, metrics = ({str(label): {"Dice": value} for label in STRUCTURES.values()} for value in (dice, case_dice))
        summary = {"mean": mean, "metric_per_case": [{"prediction_file": "/p/case.nii.gz", "metrics": metrics}]}
        counts = {"parameters": parameters, "parameters_ratio": parameters / 4_000_000}
        return {"method": method, "trainer": METHODS[method], **read_result(summary, log, 20, STRUCTURES), **counts}

    return [result("stock", 0.5, 4_000_000, 0.5), result("SA-LSTM A", 0.75, 5_000_000, float("nan"))]


def document(results):
    return demo_document(
        results_frame(results),
        {},
        {result["method"]: result["trainer"] for result in results},
        test_cases=4,
        epochs=5,
        iterations=20,
        about={"patch": "6 x 40 x 40 voxels, 2 a batch"},
        command="nnUNetv2_salstm demo",
        versions={"torch": "2"},
    )


def test_table_says_what_was_measured(results):
    table = [
        "| network   |    RV |   MYO |    LV |  mean | s / iteration | parameters | ratio |",
        "| --------- | ----: | ----: | ----: | ----: | ------------: | ---------: | ----: |",
        "| stock     | 0.500 | 0.500 | 0.500 | 0.500 |          0.50 |  4,000,000 |  1.00 |",
        "| SA-LSTM A | 0.750 | 0.750 | 0.750 | 0.750 |          0.50 |  5,000,000 |  1.25 |",
    ]
    printed = to_terminal(document(results))
    assert [line for line in printed.splitlines() if line.startswith("|")] == table
    assert "nothing about accuracy on real data" in " ".join(printed.split())
    markdown = to_markdown(document(results))
    assert "\n".join(table) in markdown
    assert "- patch: 6 x 40 x 40 voxels, 2 a batch\n" in markdown
    assert "- SA-LSTM A: `nnUNetTrainerSALSTM_A`\n" in markdown
    assert "<td>5,000,000</td>" in to_html(document(results))


def test_every_case_is_kept_and_what_cannot_be_scored_is_null(results):
    names = STRUCTURES.keys()
    assert results[0]["dice_per_case"] == {"case.nii.gz": dict.fromkeys(names, 0.5)}
    assert results[1]["dice_per_case"] == {"case.nii.gz": dict.fromkeys(names)}
    assert results[1]["dice"] == dict.fromkeys(names, 0.75)
    assert results[1]["mean_dice"] == 0.75


def test_overlay_shows_the_prediction():
    from io import BytesIO

    from matplotlib.image import imread

    image, labels = make_case(0, 0, 6, 40)
    figures = [
        imread(BytesIO(draw_prediction(image, labels, prediction, STRUCTURES, (2.4, 2.4), "title")))
        for prediction in (labels, np.zeros_like(labels))
    ]
    assert figures[0].shape == figures[1].shape
    assert min(figures[0].shape[:2]) > 500
    changed = (figures[0] != figures[1]).any(-1)
    half = len(changed) // 2
    assert not changed[:half].any(), "the upper row is the plain image"
    assert changed[half:].mean() > 0.02


# The whole


@pytest.fixture
def start():
    """Returns a function that starts the demo, tiny, in a session of its own, as a terminal does."""
    started = {}

    def start_demo(out):
        # Jobs in the background of a script are started deaf to Ctrl-C.
        code = (
            "import dataclasses, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from nnunetv2_salstm.commands import demo_stages as stages; "
            f"stages.QUICK = dataclasses.replace(stages.QUICK, {TINY}); "
            f"from nnunetv2_salstm.cli import main; sys.exit(main(['demo', '--quick', '-o', {str(out)!r}]))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started[process] = out
        return process

    yield start_demo
    for process, out in started.items():
        for pid in _family(out):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.nightly
def test_ctrl_c_leaves_no_process_and_the_next_run_goes_on(start, tmp_path):
    out = tmp_path / "out"
    demo = start(out)
    with _deadline(demo):
        _read_until(demo, "[2/6]")
        while len(_family(out)) < 4:  # nnU-Net's command and its workers run
            assert demo.poll() is None
            time.sleep(0.05)
        os.killpg(demo.pid, signal.SIGINT)
        _check_interrupted(demo, out)
    assert (out / "raw" / DATASET / "dataset.json").is_file()
    assert not (out / "preprocessed").exists()

    demo = start(out)
    with _deadline(demo):
        assert "already done" in _read_until(demo, "[2/6]")
        _read_until(demo, "epoch 1/100")
        os.kill(demo.pid, signal.SIGINT)
        _check_interrupted(demo, out)
    assert list(out.rglob("unfinished.*")) == []
    assert list(out.rglob("*.unfinished")) == []

    demo = start(out)
    with _deadline(demo):
        lines = _read_until(demo, "epoch 2/100")
        assert lines.count("already done") == 2
        assert "goes on after epoch 1\n" in lines
        os.killpg(demo.pid, signal.SIGINT)
        _check_interrupted(demo, out)


def _family(out):
    """Returns the demo's processes and all that they started: the folder is in their command or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(out).encode() in known and state != "Z":
            found.append(int(process.name))
    return found


@contextmanager
def _deadline(process, seconds=300):
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read_until(process, text):
    lines = ""
    for line in process.stdout:
        lines += line
        if text in line:
            return lines
    raise AssertionError(f"no {text!r} in:\n{lines}\n{process.stderr.read()}")


def _check_interrupted(process, out):
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "nnUNetv2_salstm demo: interrupted\n"
    # multiprocessing's resource tracker ends by itself when it notices the end of its parent.
    patience = time.monotonic() + 5
    while _family(out) and time.monotonic() < patience:
        time.sleep(0.1)
    assert _family(out) == []


@pytest.mark.nightly
def test_demo_from_the_beginning_to_the_table(tmp_path):
    def run_demo():
        # In a process of its own, where the host's warnings are no failures; from another working directory.
        code = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['demo', '--quick', '-o', 'out']))"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    first = run_demo()
    assert (first.returncode, first.stderr) == (0, "")
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["method"] for result in results] == list(METHODS)
    for result in results:
        trainer = result["trainer"]
        assert (out / f"overlay_{trainer}.png").stat().st_size > 50_000
        assert len(list((out / "predictions" / trainer).glob("*.nii.gz"))) == QUICK.test_cases
        assert len(result["dice_per_case"]) == QUICK.test_cases
        for structure, dice in result["dice"].items():
            assert 0.3 < dice < 0.999, (trainer, structure)
        assert result["seconds_per_iteration"] > 0
    assert [result["parameters_ratio"] > 1 for result in results] == [False, True, True]
    table = "\n".join(line for line in first.stdout.splitlines() if line.startswith("|"))
    assert table in (out / "results.md").read_text()
    assert (out / "results.html").read_text().count("data:image/png;base64,") == len(METHODS)
    assert DATASET in (out / "nnunet.log").read_text()

    written = {file: file.stat().st_mtime_ns for file in out.rglob("*.pth")}
    second = run_demo()
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.count("already done") == 2 + len(METHODS)
    assert table in second.stdout
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.pth")} == written
