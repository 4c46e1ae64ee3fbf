"""Studies on a real Slurm of one node: an array, a failure, a time-out with requeue, a pre-emption, a cancelled job."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from slurm_cluster import Unavailable, slurm_cluster
from test_matrix_launch import STUDY, states, wait_until
from test_matrix_runs import STUDY as DEMO
from test_matrix_runs import cases_of, copy, folds_of, prepare, report_of, start
from toy_study import toys

from nnunetv2_salstm.study.attempts import STOPPED, attempts_in
from nnunetv2_salstm.study.check import check_folder
from nnunetv2_salstm.study.launch import submit_to_slurm
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.status import report
from nnunetv2_salstm.study.study import Resources, Slurm
from nnunetv2_salstm.study.worker import LOG

pytest.importorskip("submitit", reason="the extra matrix is not installed")

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster():
    try:
        with slurm_cluster() as environment:
            yield environment
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(cluster, tmp_path, monkeypatch) -> Folder:
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    # Jobs must find these modules.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    found = Folder("toys")
    check_folder(found)
    yield found
    subprocess.run(["scancel", "--full", "-u", str(os.getuid())], check=True)
    wait_until(lambda: not listed(), 120)


def study(hours=1.0, cpus=1):
    """Returns the study of toys, each on one of the two cores."""
    resources = {"toy": Resources(cpus=cpus, memory_gb=0, hours=hours)}
    return replace(STUDY, resources=resources, slurm=Slurm(partition="tests"))


def listed() -> dict[str, str]:
    """Returns the state of every job that is queued or runs."""
    found = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())


def until_the_queue_is_empty(seconds=240):
    wait_until(lambda: not listed(), seconds)


def test_an_array_runs_each_task_once_and_its_successor_after_it(folder, tmp_path, capsys):
    tasks = toys(tmp_path, ("a", (), 2), ("b", (), 2), ("c", (), 2), ("after", ("a", "b", "c"), 0))
    submit_to_slurm(study(), tasks, folder)
    assert "3 tasks, job" in capsys.readouterr().out
    submit_to_slurm(study(), tasks, folder)
    assert "Nothing to submit" in capsys.readouterr().out
    wait_until(lambda: "running" in states(folder, tasks).values(), 90)
    assert states(folder, tasks)["after"] == "queued"
    until_the_queue_is_empty()
    assert set(states(folder, tasks).values()) == {"finished"}
    assert [task.lines() for task in tasks] == [["start", "end"]] * 4
    *members, after = (attempts_in(folder.of(task))[0] for task in tasks)
    (array,) = {attempt.job.partition("_")[0] for attempt in members}
    assert [attempt.job for attempt in members] == [f"{array}_{number}" for number in range(3)]
    assert after.started >= max(attempt.ended for attempt in members)
    # Two cores: two ran side by side.
    first, second, _ = sorted(members, key=lambda attempt: attempt.started)
    assert second.started < first.ended


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_task_has_the_cores_that_it_asked_for(folder, tmp_path, cpus):
    (task,) = toys(tmp_path, ("a", (), 0))
    submit_to_slurm(study(cpus=cpus), [task], folder)
    until_the_queue_is_empty()
    assert (folder.of(task) / LOG).read_text().splitlines()[-1] == f"cores: {cpus}"


def test_a_failure_drops_only_what_depends_on_it(folder, tmp_path):
    tasks = toys(tmp_path, ("bad", (), 0), ("good", (), 0), ("after_bad", ("bad",), 0), ("after_good", ("good",), 0))
    (tmp_path / "bad.fail").touch()
    submit_to_slurm(study(), tasks, folder)
    until_the_queue_is_empty()
    assert states(folder, tasks) == {
        "bad": "failed", "good": "finished", "after_bad": "blocked", "after_good": "finished"
    }  # fmt: skip
    assert "    no more memory\n" in report(tasks, folder)
    (tmp_path / "bad.fail").unlink()
    submit_to_slurm(study(), tasks, folder)
    until_the_queue_is_empty()
    assert set(states(folder, tasks).values()) == {"finished"}
    assert tasks[1].lines() == ["start", "end"]


def test_a_job_whose_time_is_over_is_requeued_and_goes_on(folder, tmp_path):
    # Slurm warns a minute and a half before the end, of a minute: soon after the start.
    tasks = toys(tmp_path, ("a", (), 600), ("after", ("a",), 0))
    (tmp_path / "a.quick").touch()  # the second time it has nothing left to do
    submit_to_slurm(study(hours=1 / 60), tasks, folder)
    wait_until(lambda: "start" in tasks[0].lines(), 90)
    wait_until(lambda: attempts_in(folder.of(tasks[0]))[0].status is not None, 180)
    until_the_queue_is_empty()
    first, second = attempts_in(folder.of(tasks[0]))
    assert (first.status, second.status) == (STOPPED, 0)
    assert first.job == second.job
    assert tasks[0].lines() == ["start", "start", "end"]
    # What waits for the job waits for its second run.
    assert states(folder, tasks) == {"a": "finished", "after": "finished"}
    assert attempts_in(folder.of(tasks[1]))[0].started >= second.ended


def test_a_preempted_job_is_requeued_and_goes_on(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 600), ("after", ("a",), 0))
    (tmp_path / "a.quick").touch()
    submit_to_slurm(study(), tasks, folder)
    wait_until(lambda: "start" in tasks[0].lines(), 90)
    (job,) = (job for job, state in listed().items() if state == "RUNNING")
    subprocess.run(["scontrol", "requeue", job], check=True)
    until_the_queue_is_empty()
    assert tasks[0].lines() == ["start", "start", "end"]
    assert states(folder, tasks) == {"a": "finished", "after": "finished"}
    assert len(attempts_in(folder.of(tasks[0]))) == 2


def test_a_cancelled_job_is_interrupted_and_submitted_again(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 600), ("b", (), 0), ("after", ("a",), 0))
    (tmp_path / "a.quick").touch()
    submit_to_slurm(study(), tasks, folder)
    wait_until(lambda: "start" in tasks[0].lines(), 90)
    job = attempts_in(folder.of(tasks[0]))[0].job
    subprocess.run(["scancel", job], check=True)
    until_the_queue_is_empty()
    time.sleep(0.5)
    assert states(folder, tasks) == {"a": "interrupted", "b": "finished", "after": "waiting"}
    submit_to_slurm(study(), tasks, folder)
    until_the_queue_is_empty()
    assert set(states(folder, tasks).values()) == {"finished"}
    assert tasks[1].lines() == ["start", "end"]


@pytest.mark.grid
def test_a_study_of_nnunet_with_a_cancelled_training_equals_its_commands_run_by_hand(cluster, tmp_path, monkeypatch):
    pytest.importorskip("monai", reason="the extra compare is not installed")
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / DEMO.name
    changes = {"datasets": [901], "seeds": [0], "slurm": {"partition": "tests"}}
    file.write_text(yaml.safe_dump({**yaml.safe_load(DEMO.read_text()), **changes}))
    host = prepare(tmp_path / "matrix", [901])
    by_hand = copy(host, tmp_path / "hand")
    script = start(by_hand, str(file), "--dry-run").communicate()[0]

    def submit():
        launcher = start(host, str(file), "--executor", "slurm")
        printed = launcher.communicate(timeout=120)[0]
        assert launcher.returncode == 0, printed
        return printed

    assert "train, Dataset901_Spheres: 4 tasks, job" in submit()
    tasks = host.results / "matrix" / "tasks"
    wait_until(lambda: [*tasks.glob("train__*/attempt_0.json")], 240)
    place = next(tasks.glob("train__*/attempt_0.json")).parent
    wait_until(lambda: len(attempts_in(place)[0].processes) == 2)
    subprocess.run(["scancel", attempts_in(place)[0].job], check=True)
    until_the_queue_is_empty(900)
    status = start(host, "status", str(file)).communicate()[0]
    assert f"interrupted: {place.name}: it was told to end" in status
    assert "train, Dataset901_Spheres: 1 task, job" in submit()
    until_the_queue_is_empty(900)
    assert "All tasks are finished." in start(host, "status", str(file)).communicate()[0]
    assert len([*tasks.glob("*/attempt_1.json")]) == 1

    by_hand.run(*(line for line in script.splitlines() if not line.startswith("#")))
    assert folds_of(host) == folds_of(by_hand)
    assert cases_of(host) == cases_of(by_hand)
    assert len(cases_of(host)) == 1
    assert report_of(host, trainings=2) == report_of(by_hand, trainings=2)
    assert report_of(host, trainings=2)["missing"] == {}
