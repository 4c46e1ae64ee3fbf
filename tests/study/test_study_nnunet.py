"""The demo study with nnU-Net itself on phantoms, killed in the middle, ends as its commands run by hand do."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SCRIPTS
from nnunet_host import Host, prepare
from places import ROOT
from toy_study import wait_until

from nnunetv2_salstm.study.locks import holder

pytest.importorskip("snakemake", reason="the extra study is not installed")

pytestmark = [pytest.mark.nightly]

STUDY = ROOT / "examples" / "studies" / "demo_cpu.yaml"


def copy(host: Host, root: Path) -> Host:
    """Returns folders with the same raw data and plans, so that nothing is planned twice."""
    copied = Host(root)
    for name in ("raw", "preprocessed"):
        shutil.copytree(host.root / name, root / name, dirs_exist_ok=True)
    return copied


def start(host: Host, *words: object) -> "subprocess.Popen[str]":
    """Starts the command in a process group of its own."""
    environment = {**host.environment(), "nnUNet_npp": "1", "nnUNet_nps": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "nnUNetv2_salstm", "study", *map(str, words)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def running_trainings(host: Host) -> list[int]:
    """Returns the numbers of nnU-Net's processes that train, from the locks of their jobs."""
    holders = [holder(file) for file in host.results.glob("studies/_jobs/train__*.lock")]
    jobs = [re.search(r"process (\d+)", found)[1] for found in holders if found]
    return [int(n) for job in jobs for n in Path(f"/proc/{job}/task/{job}/children").read_text().split()]


def report_of(host: Host) -> dict:
    """Returns the study's report but what trainings took."""
    values = json.loads((host.results / "studies" / "demo_cpu" / "report.json").read_text())
    values["finished"] = {row["method"]: row["finished"] for row in values.pop("hours")}
    return values


def cases_of(host: Host) -> dict[str, list]:
    """Returns the scores of every case as every training predicted it, by comparison."""
    files = sorted((host.results / "studies" / "demo_cpu" / "comparisons").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["scores"] for file in files}


def folds_of(host: Host) -> list:
    """Returns the folds of the data sets."""
    return [json.loads(file.read_text()) for file in sorted(host.root.glob("preprocessed/*/splits_final.json"))]


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [pytest.param({"datasets": [901], "seeds": [0]}, 9, id="a quarter"), pytest.param({}, 29, id="whole")],
)
def test_a_study_that_is_killed_goes_on_and_equals_its_commands_run_by_hand(tmp_path, changes, jobs):
    study = {**yaml.safe_load(STUDY.read_text()), **changes}
    file = tmp_path / STUDY.name
    file.write_text(yaml.safe_dump(study))
    host = prepare(tmp_path / "study", study["datasets"])
    by_hand = copy(host, tmp_path / "hand")
    script = start(by_hand, file, "--dry-run").communicate()[0]
    commands = [line for line in script.splitlines() if not line.startswith("#")]
    assert len(commands) == jobs

    # The launcher and a training with everything they started are killed.
    launcher = start(host, file, "--jobs", "2")
    trainings = host.results.glob
    wait_until(lambda: [*trainings("Dataset*/*/fold_*/training_log_*.txt")] or launcher.poll() is not None, 240)
    running = running_trainings(host)
    assert running
    os.killpg(launcher.pid, signal.SIGKILL)
    for number in running:
        os.killpg(number, signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()

    again = start(host, file, "--jobs", "2")
    printed, _ = again.communicate(timeout=1800)
    assert again.returncode == 0, printed
    assert "All jobs are finished." in start(host, file, "--status").communicate()[0]
    attempts = {log.stem: log.read_text().count("### started") for log in host.results.glob("studies/_jobs/*.log")}
    assert len(attempts) == jobs
    assert 1 <= sum(count == 2 for count in attempts.values()) <= 2

    by_hand.run(*commands)
    assert folds_of(host) == folds_of(by_hand)
    assert cases_of(host) == cases_of(by_hand)
    assert len(cases_of(host)) == len(study["datasets"])
    assert report_of(host) == report_of(by_hand)
    trained = len(study["datasets"]) * len(study["folds"]) * len(study["seeds"])
    assert report_of(host)["finished"] == dict.fromkeys(report_of(host)["methods"], trained)
    assert report_of(host)["missing"] == {}
