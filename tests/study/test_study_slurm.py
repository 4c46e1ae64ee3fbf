"""Studies of stand-ins on a real Slurm of one node: dependencies, resources, a time-out, a cancelled job."""

import json
import os
import subprocess

import pytest
from slurm_cluster import NotInstalled, slurm_cluster
from toy_study import OFF, STUDY, A, Toys, trained, wait_until

pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra study is not installed")

pytestmark = [pytest.mark.nightly]

# Slurm is asked sooner and more often than clusters like it.
SOON = ("--", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")


@pytest.fixture(scope="module")
def cluster():
    try:
        with slurm_cluster() as environment:
            yield environment
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture
def toys(cluster, tmp_path, monkeypatch) -> Toys:
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    yield Toys(tmp_path / "toys", folds=[0], test=False, slurm={"partition": "tests"})
    subprocess.run(["scancel", "--full", "-u", str(os.getuid())], check=True)
    wait_until(lambda: not listed(), 60)


def listed() -> list[str]:
    """Returns the numbers of the jobs that are queued or run."""
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()


def about(job: str) -> dict[str, str]:
    """Returns what Slurm says of a job."""
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def test_two_trainings_run_as_jobs_after_their_preprocessing(toys):
    """The case for every change, of .ci/run: without comparison."""
    toys.write(folds=[0, 1], test=False, trainers=["nnUNetTrainerSALSTM_A"], slurm={"partition": "tests"})
    status, printed = toys.run("--executor", "slurm", *SOON)
    assert status == 0, printed
    assert [words[0] for words in toys.calls()] == ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_train"]
    assert printed.count("has been submitted with SLURM jobid") == 3
    assert "All jobs are finished." in toys.run("--status")[1]


def test_a_job_has_what_the_study_says_and_a_cancelled_one_goes_on(toys):
    resources = {**STUDY["resources"], "train": {"cpus": 2, "memory_gb": 2, "hours": 0.5}}
    options = {"partition": "tests", "options": {"nice": 7}}
    toys.write(folds=[0], test=False, trainers=["nnUNetTrainerSALSTM_A"], resources=resources, slurm=options)
    (toys.root / f"wait.{A}").touch()
    launcher = toys.start("--executor", "slurm", *SOON)
    wait_until(lambda: trained(toys, A), 90)
    (job,) = listed()
    found = about(job)
    assert (found["NumCPUs"], found["TimeLimit"], found["Nice"]) == ("2", "00:30:00", "7")
    assert found["MinMemoryNode"] == "2000M"
    assert f"job {job} of Slurm" in toys.run("--status")[1]
    subprocess.run(["scancel", job], check=True)
    printed = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 1, printed
    assert "1 |" in toys.run("--status")[1].splitlines()[3].split("|", 5)[5]
    (toys.root / f"wait.{A}").unlink()
    assert toys.run("--executor", "slurm", *SOON)[0] == 0
    assert [words[-1] for words in trained(toys, A)] == ["cpu", "--c"]


def test_a_training_whose_time_is_over_goes_on_in_another_job_and_the_report_is_made(toys):
    resources = {**STUDY["resources"], "train": {"cpus": 1, "memory_gb": 1, "hours": 1 / 60}}
    toys.write(folds=[0], test=False, retries=1, resources=resources, slurm={"partition": "tests"})
    (toys.root / f"wait.{A}").touch()
    status, printed = toys.run("--executor", "slurm", *SOON)
    assert status == 0, printed
    # The stand-in has nothing left to do when it starts again with a checkpoint.
    assert [words[-1] for words in trained(toys, A)] == ["cpu", "--c"]
    assert len(trained(toys, OFF)) == 1
    report = toys.results / "studies" / "toys" / "report.json"
    assert json.loads(report.read_text())["missing"] == {}
