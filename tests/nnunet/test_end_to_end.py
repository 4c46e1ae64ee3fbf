"""The whole way through nnU-Net's own commands: train, kill, resume, validate, predict."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import DATASET, SCRIPTS, in_one_process, nnunet_environment
from places import ROOT

from nnunetv2_salstm.plans import salstm_of


def start_and_kill(workspace, trainer, folder):
    """Starts a training and kills it with all its children once a first checkpoint is there."""
    process = subprocess.Popen(
        [SCRIPTS / "nnUNetv2_train", "998", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"],
        env={**nnunet_environment(workspace), "nnUNet_n_proc_DA": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    try:
        while not (folder / "checkpoint_latest.pth").is_file():
            assert process.poll() is None, "the training ended before its first checkpoint"
            assert time.monotonic() < deadline, "no checkpoint after 240 seconds"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def epochs_in_last_log(folder):
    log = max(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    lines = [line.split(": ", 1)[-1].strip() for line in log.read_text().splitlines()]
    return [int(line.removeprefix("Epoch ")) for line in lines if line.removeprefix("Epoch ").isdigit()]


@pytest.mark.nightly
def test_train_kill_resume_validate_predict(workspace, tmp_path):
    trainer = "nnUNetTrainerSALSTM_A_8epochs_1its"
    model = workspace / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
    folder = model / "fold_0"
    start_and_kill(workspace, trainer, folder)
    assert not (folder / "checkpoint_final.pth").exists()

    output = tmp_path / "predictions"
    images = workspace / "raw" / DATASET / "imagesTs"
    in_one_process(
        workspace,
        f"nnUNetv2_train 998 3d_fullres 0 -tr {trainer} -device cpu --c",
        f"nnUNetv2_predict -i {images} -o {output} -d 998 -c 3d_fullres -f 0 -tr {trainer} -device cpu -npp 1 -nps 1",
    )
    epochs = epochs_in_last_log(folder)
    assert epochs[0] > 0
    assert epochs == list(range(epochs[0], 8))
    assert {path.name for path in folder.glob("*.pth*")} == {"checkpoint_best.pth", "checkpoint_final.pth"}
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1

    plans = json.loads((model / "plans.json").read_text())
    assert salstm_of(plans, "3d_fullres")["module"] == "A"
    shared_plans = json.loads((workspace / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    assert salstm_of(shared_plans, "3d_fullres") is None
    assert "'salstm': {'format': 2, 'module': 'A'" in max(folder.glob("training_log_*.txt")).read_text()

    (image,) = images.iterdir()
    predicted = sitk.ReadImage(str(output / image.name.replace("_0000", "")))
    reference = sitk.ReadImage(str(image))
    assert predicted.GetSize() == reference.GetSize()
    assert predicted.GetSpacing() == reference.GetSpacing()
    assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 1, 2}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("trainer", "configuration"),
    [
        ("nnUNetTrainerSALSTM_B_2epochs_1its", "2d"),
        ("nnUNetTrainerBDCLSTM_skips_2epochs_1its_seed1", "3d_fullres"),
        ("nnUNetTrainerSALSTMConvControl_2epochs_1its", "3d_fullres"),
        ("nnUNetTrainerSALSTMOff_2epochs_1its", "2d"),
    ],
)
def test_every_method_trains_validates_and_predicts(trainer, configuration, workspace, nnunet, tmp_path):
    if not (workspace / "preprocessed" / DATASET / f"nnUNetPlans_{configuration}").is_dir():
        nnunet("nnUNetv2_preprocess", "-d", 998, "-c", configuration, "-np", 1)
    train = f"nnUNetv2_train 998 {configuration} 0 -tr {trainer} -device cpu"
    in_one_process(workspace, train)
    summary = (
        workspace / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}/fold_0/validation/summary.json"
    )
    validated = summary.read_text()
    summary.unlink()
    images = workspace / "raw" / DATASET / "imagesTs"
    model = f"-d 998 -c {configuration} -f 0 -tr {trainer} -device cpu -npp 1 -nps 1"
    in_one_process(workspace, f"{train} --val", f"nnUNetv2_predict -i {images} -o {tmp_path} {model}")
    assert json.loads(summary.read_text())["foreground_mean"] == json.loads(validated)["foreground_mean"]
    assert len(list(tmp_path.glob("*.nii.gz"))) == 1


@pytest.mark.nightly
def test_the_protocol_of_an_accuracy_comparison(workspace, tmp_path):
    environment = {
        **nnunet_environment(workspace),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OUT": str(tmp_path / "report"),
        "METHODS": "SALSTMOff SALSTM_A",
        "ITERATIONS": "1",
        "DEVICE": "cpu",
    }
    script = ROOT / "benchmarks" / "accuracy.sh"

    def compare():
        command = ["bash", script, "998", "3d_fullres", "2", "7"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "finished before" not in compare()
    methods = ["nnUNetTrainerSALSTMOff_2epochs_1its", "nnUNetTrainerSALSTM_A_2epochs_1its"]
    second = compare()
    assert second.count("finished before") == 2
    report = json.loads((tmp_path / "report" / f"accuracy_{DATASET}_3d_fullres_2epochs_1its.json").read_text())
    assert list(report["methods"]) == methods
    assert report["baseline"] == methods[0]
    assert report["confounders"] == []
    assert report["failures"] == []
    for method in methods:
        summary = json.loads(
            (workspace / "results" / DATASET / f"{method}_seed7__nnUNetPlans__3d_fullres" / "fold_0" / "validation")
            .joinpath("summary.json")
            .read_text()
        )
        ours = [row["mean"] for row in report["summary"] if (row["method"], row["metric"]) == (method, "dice")]
        assert ours[0] == pytest.approx(summary["foreground_mean"]["Dice"])
        assert report["cost"][method]["epoch_seconds"] > 0
        assert report["cost"][method]["parameters"] > 10_000
    ratio = report["cost"][methods[1]]["parameters"] / report["cost"][methods[0]]["parameters"]
    assert 1 < ratio < 1.5
    assert methods[1] in (tmp_path / "report" / f"accuracy_{DATASET}_3d_fullres_2epochs_1its.html").read_text()


@pytest.mark.nightly
def test_the_benchmark_for_a_gpu_rehearsed_on_the_cpu(workspace, tmp_path):
    environment = {
        **nnunet_environment(workspace),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        # So little time that bench does not finish and two epochs fit.
        "MINUTES": "1",
        "ITERATIONS": "1",
        "STEPS": "2",
        "DATASET": "998",
        "OUT": str(tmp_path / "out"),
    }
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", "--preset", "acdc3d", "--repeats", "1"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "time is over" in done.stderr
    assert "2 epochs fit" in done.stdout
    report = json.loads((tmp_path / "out" / f"accuracy_{DATASET}_3d_fullres_2epochs_1its.json").read_text())
    assert [name.split("_")[0] for name in report["methods"]] == [
        "nnUNetTrainerSALSTMOff",
        "nnUNetTrainerSALSTM",
        "nnUNetTrainerSALSTMConvControl",
    ]
    trained = json.loads((tmp_path / "out" / "float16_cpu.json").read_text())
    assert trained["precision"] == "float32"
    assert [len(found["losses"]) for found in trained["trainers"].values()] == [2, 2, 2]
    assert json.loads((tmp_path / "out" / "num_gpus_cpu.json").read_text())["status"] == 0
