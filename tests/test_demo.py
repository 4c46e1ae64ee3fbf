import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_salstm import cli
from nnunetv2_salstm.commands import demo_folder as folder_module
from nnunetv2_salstm.commands import demo_pipeline as pipeline
from nnunetv2_salstm.commands.demo_folder import claim_folder, explained
from nnunetv2_salstm.commands.demo_interrupt import stoppable
from nnunetv2_salstm.commands.demo_progress import Progress
from nnunetv2_salstm.commands.demo_settings import ARMS, FULL, QUICK
from nnunetv2_salstm.converters.phantom import DATASET, SLICE_SPACING, STRUCTURES, make_case, write_dataset
from nnunetv2_salstm.host import versions as machine
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.reporting.demo import ArmResult, Report
from nnunetv2_salstm.reporting.demo_overlay import draw_overlay

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
    with pytest.raises(SalstmError, match=r"\{'edge': 40\} there, \{'edge': 56\} now; delete it, or .* --out"):
        claim_folder(tmp_path / "out", {"edge": 56, "epochs": 5}, disk=1)
    (tmp_path / "out" / "demo.json").write_text("{")
    with pytest.raises(SalstmError, match="other settings"):
        claim_folder(tmp_path / "out", {"edge": 40, "epochs": 5}, disk=1)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "holds something else; choose a new or empty folder with --out"),
        ("file", "file: Not a directory; free some room, or choose another folder with --out"),
        ("file/below", "Not a directory"),
        ("/proc/nnunetv2_salstm", "cannot write to /proc/nnunetv2_salstm: No such file or directory"),
    ],
)
def test_demo_without_a_folder_to_write_to_is_one_line(out, message, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_demo_on_a_disk_that_is_too_small_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "has room for 3 MB but the demo needs 500 MB" in error
    assert error.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError], ids=lambda stop: stop.__name__)
def test_what_is_interrupted_leaves_the_earlier_file_and_nothing_else(stop, tmp_path):
    def write(name, content):
        with written_whole(tmp_path / name) as unfinished:
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
    with written_whole(tmp_path / "folder") as unfinished:
        assert not unfinished.exists()
        unfinished.mkdir()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_full_disk_is_explained_and_a_defect_is_not():
    with pytest.raises(SalstmError, match=r"cannot write to /data: No space left on device; free some room"):
        with explained(Path("/data")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), explained(Path("/data")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/defect")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_checkpoint_that_does_not_fit_is_explained():
    with pytest.raises(SalstmError, match="cannot write to /data: not all of a checkpoint could be written; free"):
        with explained(Path("/data")):
            torch.save(torch.zeros(1_000_000), "/dev/full")
    with pytest.raises(RuntimeError, match="a defect"), explained(Path("/data")):
        raise RuntimeError("a defect")


# Requirements


def test_cuda_without_a_gpu_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["demo", "--device", "cuda", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nnUNetv2_salstm demo: -device cuda needs a GPU")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert not (tmp_path / "out").exists()


def test_an_nnunet_without_trainers_by_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "version", lambda package: "2.7.1")
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert "needs nnU-Net 2.8 or newer, which finds trainers by name, got 2.7.1" in capsys.readouterr().err


def test_environment_is_the_users_again_afterwards(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/mine")
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pipeline._environment(nnUNet_raw="/ours", nnUNet_results="/ours"):
        assert (os.environ["nnUNet_raw"], os.environ["nnUNet_results"]) == ("/ours", "/ours")
    assert os.environ["nnUNet_raw"] == "/mine"
    assert "nnUNet_results" not in os.environ


# Ctrl-C


def test_an_interrupt_that_python_drops_is_repeated(monkeypatch):
    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def work():
        with stoppable(patience=0.1):
            Dropping()
            for _ in range(1000):
                time.sleep(0.01)

    # Python's report of what it dropped would fail the test.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    before = signal.getsignal(signal.SIGINT)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert 0.05 < time.monotonic() - start < 5
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_worker_outlives_the_block(method):
    def work():
        with stoppable():
            multiprocessing.get_context(method).Process(target=time.sleep, args=(60,), daemon=True).start()
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        work()
    assert multiprocessing.active_children() == []


# Progress


def test_console_shows_the_stages_and_the_log_the_rest(tmp_path, capfd):
    with Progress(tmp_path / "log", stages=2) as progress:
        progress.stage("Train")
        print("chatter")
        print("warning", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
        progress.line("epoch 1")
        progress.stage("Predict")
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "[1/2] Train\n      epoch 1\n[2/2] Predict\nafter\n"
    assert captured.err == ""
    assert (tmp_path / "log").read_text() == "chatter\nwarning\nof a child\n"


def test_console_is_never_silent_for_long(tmp_path, capsys):
    with Progress(tmp_path / "log", stages=1, silence=0.1) as progress:
        progress.stage("Train")
        time.sleep(1.2)
    assert "... still at it, 1 s" in capsys.readouterr().out


# Report and figure


def _report():
    logging = {"epoch_start_timestamps": [0.0, 20.0, 40.0], "epoch_end_timestamps": [19.0, 30.0, 48.0]}

    def result(arm, dice, parameters):
        metrics = {str(label): {"Dice": dice} for label in STRUCTURES.values()}
        summary = {"mean": metrics, "metric_per_case": [{"prediction_file": "/p/case.nii.gz", "metrics": metrics}]}
        return ArmResult.read(arm, ARMS[arm], summary, logging, 20, parameters)

    plan = {"patch_size": [6, 40, 40], "batch_size": 2, "spacing": [8.0, 2.4, 2.4], "median": "left out"}
    results = [result("stock", 0.5, 4_000_000), result("SA-LSTM A", 0.75, 5_000_000)]
    return Report.make(results, QUICK, "cpu", plan)


def test_table_says_what_was_measured():
    assert _report().to_table().splitlines() == [
        "| network   |    RV |   MYO |    LV |  mean | s / iteration | parameters | ratio |",
        "| --------- | ----: | ----: | ----: | ----: | ------------: | ---------: | ----: |",
        "| stock     | 0.500 | 0.500 | 0.500 | 0.500 |          0.50 |  4,000,000 |  1.00 |",
        "| SA-LSTM A | 0.750 | 0.750 | 0.750 | 0.750 |          0.50 |  5,000,000 |  1.25 |",
    ]


def test_json_and_markdown_hold_table_settings_versions_and_hardware():
    report = _report()
    values = json.loads(report.to_json())
    assert values["format"] == 1
    assert values["settings"] == dataclasses.asdict(QUICK)
    assert values["versions"]["torch"] == version("torch")
    assert values["hardware"]["threads"] == torch.get_num_threads()
    network = values["results"][1]
    assert network["dice_per_case"] == {"case.nii.gz": {"RV": 0.75, "MYO": 0.75, "LV": 0.75}}
    assert (network["mean_dice"], network["parameters_ratio"]) == (0.75, 1.25)
    markdown = report.to_markdown()
    assert report.to_table() in markdown
    assert "nothing about accuracy on real data" in markdown
    assert "6 x 40 x 40 voxels, 2 a batch" in markdown
    assert "8 x 2.4 x 2.4 mm" in markdown


def test_overlay_shows_the_prediction(tmp_path):
    from matplotlib.image import imread

    list(write_dataset(tmp_path, 0, 1, 0, 6, 40))
    image = tmp_path / DATASET / "imagesTr" / "phantom_000_0000.nii.gz"
    reference = tmp_path / DATASET / "labelsTr" / "phantom_000.nii.gz"
    nothing = tmp_path / "nothing.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(reference)) * 0, str(nothing))
    figures = []
    for prediction in (reference, nothing):
        draw_overlay(image, reference, prediction, "title", tmp_path / "figure.png")
        figures.append(imread(tmp_path / "figure.png"))
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
    started = []

    def start_demo(out):
        # Jobs in the background of a script are started deaf to Ctrl-C.
        code = (
            "import dataclasses, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from nnunetv2_salstm.demo import settings; "
            f"settings.QUICK = dataclasses.replace(settings.QUICK, {TINY}); "
            f"from nnunetv2_salstm.cli import main; sys.exit(main(['demo', '--quick', '--out', {str(out)!r}]))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_demo
    for process in started:
        for pid in _session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_next_run_goes_on(start, tmp_path):
    out = tmp_path / "out"
    demo = start(out)
    with _deadline(demo):
        _read_until(demo, "[2/6]")
        while len(_session(demo.pid)) < 3:  # nnU-Net's workers run
            assert demo.poll() is None
            time.sleep(0.05)
        os.killpg(demo.pid, signal.SIGINT)
        _check_interrupted(demo)
    assert (out / "raw" / DATASET / "dataset.json").is_file()
    assert not (out / "preprocessed").exists()

    demo = start(out)
    with _deadline(demo):
        assert "already done" in _read_until(demo, "[2/6]")
        _read_until(demo, "epoch 1/100")
        os.kill(demo.pid, signal.SIGINT)
        _check_interrupted(demo)
    assert list(out.rglob("unfinished.*")) == []
    assert list(out.rglob("*.unfinished")) == []

    demo = start(out)
    with _deadline(demo):
        lines = _read_until(demo, "epoch 2/100")
        assert lines.count("already done") == 2
        assert "goes on after epoch 1\n" in lines
        os.killpg(demo.pid, signal.SIGINT)
        _check_interrupted(demo)


def _session(leader):
    """Returns the processes in the session of `leader` that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


@contextmanager
def _deadline(process, seconds=120):
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


def _check_interrupted(process):
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "nnUNetv2_salstm demo: interrupted\n"
    # multiprocessing's resource tracker ends by itself when it notices the end of its parent.
    patience = time.monotonic() + 5
    while _session(process.pid) and time.monotonic() < patience:
        time.sleep(0.1)
    assert _session(process.pid) == []


@pytest.mark.slow
def test_demo_from_the_beginning_to_the_table(tmp_path):
    def run_demo():
        # In a process of its own, where the host's warnings are no failures; from another working directory.
        code = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['demo', '--quick', '--out', 'out']))"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    first = run_demo()
    assert (first.returncode, first.stderr) == (0, "")
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["arm"] for result in results] == list(ARMS)
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
    assert DATASET in (out / "nnunet.log").read_text()

    written = {file: file.stat().st_mtime_ns for file in out.rglob("*.pth")}
    second = run_demo()
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.count("already done") == 2 + len(ARMS)
    assert table in second.stdout
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.pth")} == written
