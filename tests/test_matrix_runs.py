"""The demo study with nnU-Net itself on phantoms, killed in the middle, ends as its commands run by hand do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import SCRIPTS, write_dataset
from nnunet_host import Host

from nnunetv2_salstm.study.attempts import Attempt

pytestmark = [pytest.mark.slow]

STUDY = Path(__file__).parents[1] / "examples" / "studies" / "demo_cpu.yaml"


def prepare(root: Path, numbers: list[int]) -> Host:
    """Returns nnU-Net's folders with data sets, planned with tiny networks; preprocessing is the study's work."""
    host = Host(root)
    for number in numbers:
        name = {901: "Spheres", 902: "Discs"}[number]
        write_dataset(root / "raw" / f"Dataset{number}_{name}", seed=number)
        host.plan(number)
        plans_file = root / "preprocessed" / f"Dataset{number}_{name}" / "nnUNetPlans.json"
        plans = json.loads(plans_file.read_text())
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["arch_kwargs"]["features_per_stage"] = [8, 8, 16, 16]
        plans_file.write_text(json.dumps(plans))
    return host


def copy(host: Host, root: Path) -> Host:
    """Returns folders with the same raw data and plans, so that nothing is planned twice."""
    copied = Host(root)
    for name in ("raw", "preprocessed"):
        shutil.copytree(host.root / name, root / name, dirs_exist_ok=True)
    return copied


def start(host: Host, *words: str) -> subprocess.Popen[str]:
    """Starts the command on the demo study."""
    environment = {**host.environment(), "nnUNet_npp": "1", "nnUNet_nps": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "nnUNetv2_salstm", "matrix", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def report_of(host: Host, trainings: int) -> dict:
    """Returns the study's report but what trainings took, of which every arm has finished so many."""
    values = json.loads((host.results / "matrix" / "studies" / "demo_cpu" / "report.json").read_text())
    assert [hours["finished"] for hours in values.pop("hours").values()] == [trainings, trainings]
    return values


def cases_of(host: Host) -> dict[str, list]:
    """Returns the scores of every case as every run predicted it, by report."""
    reports = sorted((host.results / "matrix" / "studies" / "demo_cpu" / "reports").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["cases"] for file in reports}


def folds_of(host: Host) -> list:
    """Returns the folds of the data sets."""
    return [json.loads(file.read_text()) for file in sorted(host.root.glob("preprocessed/*/splits_final.json"))]


@pytest.mark.parametrize(
    ("changes", "number_of_tasks"),
    [
        pytest.param({"datasets": [901], "seeds": [0]}, 9, id="a quarter"),
        pytest.param({}, 29, id="whole", marks=pytest.mark.grid),
    ],
)
def test_a_study_that_is_killed_goes_on_and_equals_its_commands_run_by_hand(tmp_path, changes, number_of_tasks):
    pytest.importorskip("submitit", reason="the extra matrix is not installed")
    pytest.importorskip("monai", reason="the extra compare is not installed")
    study = {**yaml.safe_load(STUDY.read_text()), **changes}
    file = tmp_path / STUDY.name
    file.write_text(yaml.safe_dump(study))
    host = prepare(tmp_path / "matrix", study["datasets"])
    by_hand = copy(host, tmp_path / "hand")

    script = start(by_hand, str(file), "--dry-run").communicate()[0]
    commands = [line for line in script.splitlines() if not line.startswith("#")]

    tasks = host.results / "matrix" / "tasks"
    launcher = start(host, str(file), "--jobs", "2")
    # A training is killed with everything it started; then the launcher.
    end = time.monotonic() + 120
    while not (found := [*tasks.glob("train__*/attempt_0.json")]):
        assert launcher.poll() is None, launcher.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    while len(processes := Attempt.read(found[0]).processes) < 2:
        time.sleep(0.05)
    os.killpg(processes[1].number, signal.SIGKILL)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()

    again = start(host, "run", str(file), "--jobs", "2")
    printed, _ = again.communicate(timeout=600)
    assert again.returncode == 0, printed
    assert f"All {number_of_tasks} tasks are finished." in printed
    status = start(host, "status", str(file)).communicate()[0]
    assert "All tasks are finished." in status
    # Only the one that was killed has been tried again.
    assert len([*tasks.glob("*/attempt_1.json")]) == 1

    by_hand.run(*commands)
    assert folds_of(host) == folds_of(by_hand)
    assert cases_of(host) == cases_of(by_hand)
    assert len(cases_of(host)) == len(study["datasets"])
    trainings = len(study["datasets"]) * len(study["folds"]) * len(study["seeds"])
    assert report_of(host, trainings) == report_of(by_hand, trainings)
    assert report_of(host, trainings)["missing"] == {}
