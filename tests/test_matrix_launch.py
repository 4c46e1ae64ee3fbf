"""Tasks of a study run once each, whatever is killed and whoever starts them; the commands are toys."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy_study import toys

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study import launch
from nnunetv2_salstm.study.attempts import STOPPED, Held, Jobs, Process, attempts_in, begin
from nnunetv2_salstm.study.check import check_folder
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.status import report
from nnunetv2_salstm.study.study import Resources, Study
from nnunetv2_salstm.study.worker import Failed, Worker

pytest.importorskip("submitit", reason="the extra matrix is not installed")

STUDY = Study(
    file=Path("study.yaml"), name="toys", datasets=("1",), configurations=("2d",), trainers=("a", "b"), device="cpu"
)
LAUNCHER = """
import sys
from pathlib import Path
from test_matrix_launch import STUDY
from toy_study import toys
from nnunetv2_salstm.study import launch
from nnunetv2_salstm.study.state import Folder

launch.INTERVAL = 0.2
tasks = toys(Path(sys.argv[1]), ("a", (), 1.5), ("b", (), 0.0), ("c", ("a", "b"), 0.0))
launch.run_locally(STUDY, tasks, Folder("toys"), 2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    # Jobs must find these modules.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setattr(launch, "INTERVAL", 0.1)
    found = Folder("toys")
    check_folder(found)
    return found


def states(folder, tasks):
    return {name.removeprefix("toy__"): state.name for name, state in folder.states(tasks).items()}


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_tasks_run_in_their_order_and_only_once(folder, tmp_path, capsys):
    tasks = toys(tmp_path, ("a", (), 0), ("b", ("a",), 0), ("c", ("a", "b"), 0))
    assert states(folder, tasks) == {"a": "ready", "b": "waiting", "c": "waiting"}
    launch.run_here(tasks, folder)
    assert capsys.readouterr().out.splitlines()[-1] == "All 3 tasks are finished."
    assert [task.lines() for task in tasks] == [["start", "end"]] * 3
    ends = [attempts_in(folder.of(task))[0].ended for task in tasks]
    assert ends == sorted(ends)
    launch.run_here(tasks, folder)
    assert [task.lines() for task in tasks] == [["start", "end"]] * 3


def test_a_failing_task_stops_only_what_depends_on_it(folder, tmp_path):
    tasks = toys(tmp_path, ("bad", (), 0), ("good", (), 0), ("after_bad", ("bad",), 0), ("after_good", ("good",), 0))
    (tmp_path / "bad.fail").touch()
    with pytest.raises(SalstmError, match="2 of 4 tasks are not finished, the first: toy__bad"):
        launch.run_here(tasks, folder)
    assert states(folder, tasks) == {
        "bad": "failed", "good": "finished", "after_bad": "blocked", "after_good": "finished"
    }  # fmt: skip
    text = report(tasks, folder)
    assert "failed: toy__bad: ended with status 3" in text
    assert "    no more memory\n" in text
    # The next run tries it again.
    (tmp_path / "bad.fail").unlink()
    launch.run_here(tasks, folder)
    assert set(states(folder, tasks).values()) == {"finished"}
    assert tasks[1].lines() == ["start", "end"]


def test_outputs_decide_not_our_records(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 0), ("b", ("a",), 0))
    tasks[0].output.write_text("made by hand")
    assert states(folder, tasks) == {"a": "finished", "b": "ready"}
    launch.run_here(tasks, folder)
    assert tasks[0].lines() == []
    tasks[1].output.unlink()
    assert states(folder, tasks) == {"a": "finished", "b": "failed"}
    assert "ended well, but there is no" in report(tasks, folder)


def test_a_task_that_was_finished_since_it_was_submitted_does_not_run(folder, tmp_path):
    (task,) = toys(tmp_path, ("a", (), 0))
    worker = Worker(task, folder.of(task), {})
    task.output.write_text("made by another run")
    worker()
    assert task.lines() == []
    assert attempts_in(folder.of(task))[0].status == 0


def test_gpus_are_given_to_one_task_each(folder, tmp_path, monkeypatch):
    """Two tasks on one GPU each, two GPUs of which another study uses one: they run one after the other."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    begin(folder.tasks / "of_another_study", ("4",))
    tasks = [replace(task, resources=Resources(gpus=1)) for task in toys(tmp_path, ("a", (), 0.3), ("b", (), 0.3))]
    launch.run_locally(replace(STUDY, device="cuda"), tasks, folder, None)
    first, second = (attempts_in(folder.of(task))[0] for task in tasks)
    assert first.gpus == second.gpus == ("7",)
    assert first.ended <= second.started


def test_a_command_that_is_not_there_is_a_failure(folder, tmp_path):
    (task,) = toys(tmp_path, ("a", (), 0))
    object.__setattr__(task, "command", lambda: ["no_such_command"])
    with pytest.raises(FileNotFoundError):
        Worker(task, folder.of(task), {})()
    (attempt,) = attempts_in(folder.of(task))
    assert "no_such_command" in str(attempt.status)


def test_the_environment_and_the_gpus_reach_the_command(folder, tmp_path):
    (task,) = toys(tmp_path, ("a", (), 0))
    code = "import os; print(os.environ['nnUNet_x'], os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
    object.__setattr__(task, "command", lambda: [sys.executable, "-c", code])
    with pytest.raises(Failed, match="ended well, but there is no"):
        Worker(task, folder.of(task), {"nnUNet_x": "7"}, ("2", "5"))()
    assert (folder.of(task) / "log.txt").read_text().splitlines()[-1] == "7 2,5"
    assert attempts_in(folder.of(task))[0].gpus == ("2", "5")


def test_a_task_is_prepared_before_its_command(folder, tmp_path):
    (task,) = toys(tmp_path, ("a", (), 0))
    needed = tmp_path / "needed"
    object.__setattr__(task, "prepare", needed.touch)
    object.__setattr__(task, "command", lambda: ["mv", str(needed), str(task.output)])
    Worker(task, folder.of(task), {})()
    assert task.output.is_file()


def test_only_one_attempt_is_under_way(tmp_path):
    first = begin(tmp_path)
    with pytest.raises(Held, match=f"it runs for .* on {socket.gethostname()}"):
        begin(tmp_path)
    first.end(0)
    assert begin(tmp_path).file.name == "attempt_1.json"


def test_of_two_who_begin_at_once_one_makes_the_attempt(tmp_path, monkeypatch):
    first = begin(tmp_path)
    # The other has looked before there was one.
    monkeypatch.setattr("nnunetv2_salstm.study.attempts.attempts_in", lambda folder: [])
    with pytest.raises(Held, match="another process has just begun it"):
        begin(tmp_path)
    # The first one's record is whole, and the other's draft is gone.
    assert [file.name for file in tmp_path.iterdir()] == ["attempt_0.json"]
    assert attempts_in(tmp_path) == [first]


def test_an_attempt_of_a_dead_process_is_over_but_not_one_of_another_machine(tmp_path):
    attempt = begin(tmp_path)
    dead = Process(attempt.processes[0].number, "0")  # the number is in use again, by a process of another start
    replace(attempt, processes=(dead,)).write()
    second = begin(tmp_path)
    replace(second, host="elsewhere").write()
    with pytest.raises(Held, match=r"on elsewhere; if it is known to be dead, remove .*attempt_1.json"):
        begin(tmp_path)


def test_slurm_knows_which_jobs_are_dead_and_a_requeued_job_takes_its_own_task(tmp_path, monkeypatch):
    attempt = begin(tmp_path)
    replace(attempt, host="node1", job="12_3").write()
    jobs = Jobs(known=True, _listed={"12_3"})
    assert attempts_in(tmp_path)[0].is_under_way(jobs)
    assert not attempts_in(tmp_path)[0].is_under_way(Jobs(known=True, _listed={"12_4"}))
    monkeypatch.setattr("nnunetv2_salstm.study.attempts.Jobs", lambda: jobs)
    with pytest.raises(Held, match="on node1, job 12_3"):
        begin(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert begin(tmp_path).job == "12_3"


def test_a_killed_worker_leaves_its_command_in_charge(folder, tmp_path):
    (task,) = toys(tmp_path, ("a", (), 30))
    code = (
        "import sys; from pathlib import Path; from toy_study import toys\n"
        "from nnunetv2_salstm.matrix.worker import Worker\n"
        "(task,) = toys(Path(sys.argv[1]), ('a', (), 30)); Worker(task, Path(sys.argv[2]), {})()"
    )
    place = folder.of(task)
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(place)])
    wait_until(lambda: "start" in task.lines())
    worker.kill()
    worker.wait()
    # The command goes on: it must not be started beside itself.
    assert states(folder, [task]) == {"a": "running"}
    with pytest.raises(Held):
        begin(place)
    command = attempts_in(place)[0].processes[-1].number
    assert json.loads((place / "attempt_0.json").read_text())["command"].startswith(sys.executable)
    os.kill(command, signal.SIGKILL)
    wait_until(lambda: states(folder, [task]) == {"a": "interrupted"})


def test_a_stopped_job_ends_its_command_and_is_requeued(folder, tmp_path):
    """As submitit does at the end of a job's time: its handler interrupts the call, and calls checkpoint."""
    (task,) = toys(tmp_path, ("a", (), 30))
    worker = Worker(task, folder.of(task), {})

    def warn(signum, frame):
        requeued.append(worker.checkpoint().function)
        raise SystemExit

    requeued: list[Worker] = []
    before = signal.signal(signal.SIGALRM, warn)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(SystemExit):
            worker()
    finally:
        signal.signal(signal.SIGALRM, before)
    (attempt,) = attempts_in(folder.of(task))
    assert attempt.status == STOPPED
    assert Process.of(attempt.processes[-1].number) is None
    assert states(folder, [task]) == {"a": "interrupted"}
    assert requeued[0].task == task
    (quick,) = toys(tmp_path, ("a", (), 0))
    requeued[0].task = quick
    requeued[0]()
    assert states(folder, [task]) == {"a": "finished"}


def test_the_launcher_may_die_and_two_may_run(folder, tmp_path):
    """One launcher is killed while a task runs; two others then start together, and nothing runs twice."""
    tasks = toys(tmp_path, ("a", (), 1.5), ("b", (), 0.0), ("c", ("a", "b"), 0.0))
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: "start" in tasks[0].lines())
    first.kill()
    first.wait()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert [task.lines() for task in tasks] == [["start", "end"]] * 3
    assert all("All 3 tasks are finished." in text for text in printed)


def test_a_failure_does_not_keep_the_launcher_from_the_rest(folder, tmp_path):
    tasks = toys(tmp_path, ("bad", (), 0), ("good", (), 0), ("after", ("bad",), 0))
    (tmp_path / "bad.fail").touch()
    with pytest.raises(SalstmError, match="2 of 3 tasks are not finished"):
        launch.run_locally(STUDY, tasks, folder, 2)
    assert states(folder, tasks) == {"bad": "failed", "good": "finished", "after": "blocked"}
    assert tasks[0].lines() == ["start"]


def test_a_task_whose_time_is_over_goes_on_in_a_new_job(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 1.5), ("b", (), 0.0), ("c", ("a", "b"), 0.0))
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)], stdout=subprocess.DEVNULL)
    wait_until(lambda: "start" in tasks[0].lines())
    # What submitit and Slurm send shortly before the end, to all processes of a job.
    for process in attempts_in(folder.of(tasks[0]))[0].processes[::-1]:
        os.kill(process.number, signal.SIGUSR2)
        time.sleep(0.3)  # a command that minded it would be gone before its worker is told
    assert launcher.wait(timeout=30) == 0
    assert [attempt.status for attempt in attempts_in(folder.of(tasks[0]))] == [STOPPED, 0]
    assert tasks[0].lines() == ["start", "start", "end"]


def test_ctrl_c_stops_the_tasks_too(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 1.5), ("b", (), 0.0), ("c", ("a", "b"), 0.0))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.replace("1.5", "60"), str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Tests may themselves run where Ctrl-C is ignored; a terminal sends it to all of a group.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    wait_until(lambda: "start" in tasks[0].lines())
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=20) != 0
    wait_until(lambda: states(folder, tasks)["a"] == "interrupted")
    (attempt,) = attempts_in(folder.of(tasks[0]))
    wait_until(lambda: all(Process.of(process.number) is None for process in attempt.processes))
    assert tasks[0].lines() == ["start"]


def test_status_learns_from_what_has_run(folder, tmp_path):
    tasks = toys(tmp_path, ("a", (), 0), ("b", (), 0), ("c", (), 0))
    Worker(tasks[0], folder.of(tasks[0]), {})()
    (attempt,) = attempts_in(folder.of(tasks[0]))
    replace(attempt, started=attempt.ended - 600).write()
    assert report(tasks, folder).endswith("Time left: about 20 min with 1 at once, 20 min of work in 2 tasks.")
