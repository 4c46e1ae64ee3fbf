"""Studies of stand-ins: what is started, locked, gone on with and judged, here and through Snakemake."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from toy_study import OFF, A, Toys, trained, wait_until

from nnunetv2_salstm.evaluation.runs import TrainingLog
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.graph import jobs_of
from nnunetv2_salstm.study.jobs import Job, Train
from nnunetv2_salstm.study.locks import Held, hold, hold_gpus, holder
from nnunetv2_salstm.study.run import run_job
from nnunetv2_salstm.study.schema import read_study
from nnunetv2_salstm.study.status import Status, status_of

snakemake = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Snakemake, of the extra study, needs Python 3.11 or newer"
)


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Toys:
    made = Toys(tmp_path / "toys", folds=[0], test=False)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(made.root / name))
    # Jobs find the programs that lie beside Python.
    monkeypatch.setattr("sys.executable", str(made.python))
    return made


@pytest.fixture
def jobs(toys) -> list[Job]:
    return jobs_of(read_study(toys.file))


def status(toys: Toys, jobs: list[Job]) -> Status:
    logs = {job.name: TrainingLog.read(job.folder) for job in jobs if isinstance(job, Train)}
    return status_of(read_study(toys.file), jobs, {name: [*log.epoch_seconds.values()] for name, log in logs.items()})


def states(toys: Toys, jobs: list[Job]) -> dict[str, str]:
    """Returns the states of each kind of job that there are any of."""
    counts = status(toys, jobs).counts
    return {kind: " ".join(f"{n} {state}" for state, n in row.items() if n) for kind, row in counts.items()}


def test_a_job_runs_its_command_once_and_writes_down_how_it_ended(toys, jobs, capfd):
    preprocess, training, *_ = jobs
    assert [run_job(job, wait=False) for job in (preprocess, training, training)] == [0, 0, 0]
    assert len(trained(toys, OFF)) == 1
    assert training.log.status() == 0
    assert holder(training.lock) is None
    assert states(toys, jobs) == {
        "preprocess": "1 finished", "train": "1 finished 1 missing", "compare": "1 missing", "report": "1 missing"
    }  # fmt: skip
    assert f"{training.name}: nnUNetv2_train 901 3d_fullres 0 -tr {OFF}" in capfd.readouterr().out


def test_a_job_that_fails_says_why_and_keeps_what_is_there(toys, jobs, capfd):
    preprocess, training, *_ = jobs
    (toys.root / f"fail.{OFF}").touch()
    run_job(preprocess, wait=False)
    training.folder.mkdir(parents=True)
    (training.folder / "checkpoint_latest.pth").touch()
    assert run_job(training, wait=False) == 1
    error = capfd.readouterr().err
    assert f"{training.name}: it ended with status 3: nnUNetv2_train 901 3d_fullres 0" in error
    assert "no more memory" in error
    assert (training.folder / "checkpoint_latest.pth").is_file()
    found = status(toys, jobs)
    assert found.counts["train"] == {"finished": 0, "running": 0, "failed": 1, "interrupted": 0, "missing": 1}
    ((why, lines),) = found.failed.items()
    assert why.startswith(f"{training.name}: ended with status 3, and there is no ")
    assert lines == ["no more memory", f"({training.log.file})"]


def test_a_command_that_ends_well_without_its_outputs_is_a_failure(toys, jobs, capfd):
    _, training, *_ = jobs
    (toys.python.parent / "nnUNetv2_train").write_text("#!/bin/sh\n")
    assert run_job(training, wait=False) == 1
    assert f"there is no {training.checkpoint}" in capfd.readouterr().err


def test_a_command_that_is_not_there_is_said(toys, jobs, capfd, monkeypatch):
    (toys.python.parent / "nnUNetv2_train").unlink()
    monkeypatch.setenv("PATH", "/usr/bin")
    assert run_job(jobs[1], wait=False) == 1
    error = capfd.readouterr().err
    assert (error.count("\n"), "nnUNetv2_train" in error, "Traceback" in error) == (1, True, False)


def test_who_is_at_a_job_is_said_and_others_wait_or_fail(toys, jobs, capfd):
    training = jobs[1]
    with hold(training.lock):
        assert "process" in holder(training.lock)
        assert states(toys, jobs)["train"] == "1 running 1 missing"
        assert run_job(training, wait=False) == 1
        assert f"is already run by {holder(training.lock)}" in capfd.readouterr().err
    assert holder(training.lock) is None
    assert toys.calls() == []


def start_and_wait_for_training(toys: Toys, jobs: list[Job]) -> "subprocess.Popen[bytes]":
    """Starts the first training in a process of its own; it lasts until `wait` of it is removed."""
    preprocess, training, *_ = jobs
    run_job(preprocess, wait=False)
    (toys.root / f"wait.{OFF}").touch()
    words = [toys.python, "-m", "nnunetv2_salstm.study.run", toys.file, training.name]
    process = subprocess.Popen(words, env=toys.environment(), stdout=subprocess.DEVNULL)
    wait_until((training.folder / "checkpoint_best.pth").is_file)
    return process


@pytest.mark.nightly
def test_a_job_that_is_told_to_end_ends_what_it_started_and_gives_back_its_lock(toys, jobs):
    training = jobs[1]
    process = start_and_wait_for_training(toys, jobs)
    assert status(toys, jobs).running == [f"{training.name}, {holder(training.lock)}, epoch 1 of 3"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert holder(training.lock) is None
    assert states(toys, jobs)["train"] == "1 interrupted 1 missing"
    (toys.root / f"wait.{OFF}").unlink()
    assert run_job(training, wait=False) == 0
    assert [words[-1] for words in trained(toys, OFF)] == ["cpu", "--c"]


@pytest.mark.nightly
def test_what_a_killed_job_started_keeps_its_lock_until_it_ends(toys, jobs):
    training = jobs[1]
    process = start_and_wait_for_training(toys, jobs)
    process.kill()
    process.wait()
    assert run_job(training, wait=False) == 1
    (toys.root / f"wait.{OFF}").unlink()
    assert run_job(training, wait=True) == 0
    assert len(trained(toys, OFF)) == 1


def test_predictions_that_were_cut_short_are_made_again(toys, tmp_path):
    toys.write(folds=[0])
    jobs = jobs_of(read_study(toys.file))
    for job in jobs:
        if job.kind in ("preprocess", "train"):
            assert run_job(job, wait=False) == 0
    prediction = next(job for job in jobs if job.kind == "predict")
    assert run_job(prediction, wait=False) == 0
    assert prediction.missing() is None
    prediction.log.start("nnUNetv2_predict")
    assert "cut short" in prediction.missing()


def test_a_lock_is_given_back_when_its_process_is_killed(tmp_path):
    file = tmp_path / "lock"
    program = "from pathlib import Path; from nnunetv2_salstm.study.locks import hold; import time\n"
    program += f"with hold(Path({str(file)!r})): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert f"process {process.pid}, since" in holder(file)
    with pytest.raises(Held, match=f"process {process.pid}, since"), hold(file):
        pass
    process.kill()
    process.communicate()
    assert holder(file) is None
    with hold(file):
        assert f"process {os.getpid()}" in holder(file)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine of three GPUs, of which the second computes for somebody else."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n*compute-apps*) echo GPU-1;;\n*uuid*) echo GPU-$3;;\n*) echo 0 1 2;;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("nnunetv2_salstm.study.locks.PATIENCE", 0.05)
    return tmp_path / "nnunetv2_salstm_gpus"


def test_each_job_has_gpus_of_its_own_and_nobody_elses(gpus):
    with ExitStack() as held:
        assert held.enter_context(hold_gpus(1))[0] == "0"
        assert held.enter_context(hold_gpus(1))[0] == "2"
        assert holder(gpus / "GPU-2")
    with hold_gpus(2) as (names, _):
        assert names == "0,2"
    assert holder(gpus / "GPU-0") is None
    with hold_gpus(0) as (names, locks):
        assert (names, locks) == ("", [])


def test_slurms_own_choice_of_gpus_is_taken(gpus, monkeypatch):
    # All that there is was given to this job.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with hold_gpus(1) as (names, _):
        assert names == "1"


def test_a_job_waits_for_a_gpu(gpus, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    gpus.mkdir(exist_ok=True)
    program = "from pathlib import Path; from nnunetv2_salstm.study.locks import hold; import time\n"
    program += f"with hold(Path({str(gpus / 'GPU-0')!r})): print('held', flush=True); time.sleep(0.5)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    start = time.monotonic()
    with hold_gpus(1) as (names, _):
        assert (names, process.wait()) == ("0", 0)
    assert time.monotonic() - start > 0.2
    assert capsys.readouterr().out == "waits for 1 more of the 1 GPUs 0\n"
    process.communicate()


def test_locks_are_for_all_users(tmp_path, monkeypatch):
    umask = os.umask(0o077)
    try:
        with hold(tmp_path / "lock"):
            pass
    finally:
        os.umask(umask)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o666

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(SalstmError, match="lock belongs to another user; ask "), hold(tmp_path / "lock"):
        pass


def test_a_training_on_two_gpus_sees_these_alone(toys, gpus):
    toys.write(folds=[0], test=False, device="cuda", resources={"train": {"gpus": 2}})
    preprocess, training, *_ = jobs_of(read_study(toys.file))
    assert [run_job(job, wait=False) for job in (preprocess, training)] == [0, 0]
    ((_, *words),) = toys.calls("on 0,2")
    # Without the dash, as no test trains like that and test_docs_commands.py would take this one for it.
    assert [word.removeprefix("-") for word in words[-2:]] == ["num_gpus", "2"]


def test_jobs_on_a_cpu_do_not_spin_while_they_wait(toys, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    toys.write(folds=[0], test=False, device="cpu")
    assert run_job(jobs_of(read_study(toys.file))[0], wait=False) == 0
    assert toys.calls("waits PASSIVE")


@snakemake
def test_a_study_goes_on_with_what_is_missing(toys):
    """One training was made by hand, another was begun; what nnU-Net has written is all still there in the end."""
    made_by_hand, begun = toys.folder(OFF, 0), toys.folder(A, 0)
    (made_by_hand / "validation").mkdir(parents=True)
    (made_by_hand / "checkpoint_final.pth").touch()
    (made_by_hand / "validation" / "summary.json").write_text('{"foreground_mean": {}}')
    begun.mkdir(parents=True)
    (begun / "checkpoint_latest.pth").touch()
    status, printed = toys.run("--jobs", "2")
    assert status == 0, printed
    assert [words[:2] for words in toys.calls()] == [
        ["nnUNetv2_plan_and_preprocess", "-d"],
        ["nnUNetv2_train", "901"],
        ["nnUNetv2_salstm", "compare"],
        ["nnUNetv2_salstm", "study"],
    ]
    assert [words[-1] for words in trained(toys, A)] == ["--c"]
    assert (begun / "checkpoint_latest.pth").is_file()
    # However new the plans are, nothing is trained again.
    (toys.root / "preprocessed" / "Dataset901_Toys" / "nnUNetPlans.json").touch()
    assert [job.missing() for job in jobs_of(read_study(toys.file))] == [None] * 5
