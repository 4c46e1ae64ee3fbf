"""Starting what is missing through submitit: on this machine, or as job arrays of Slurm."""

import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.attempts import STOPPED, Held, Jobs, attempts_in, begin
from nnunetv2_salstm.study.check import gpus_of_this_machine
from nnunetv2_salstm.study.state import Folder, State
from nnunetv2_salstm.study.study import Study
from nnunetv2_salstm.study.tasks import Task
from nnunetv2_salstm.study.worker import Failed, Worker

# How often a task that is stopped by its time limit is requeued; each time it goes on from a checkpoint.
REQUEUES = 100
# Seconds between a look at the tasks that run and the next.
INTERVAL = 2.0
# What can be started.
_STARTABLE = ("ready", "interrupted", "failed")


def environment() -> dict[str, str]:
    """Returns nnU-Net's variables, for jobs on other machines."""
    return {name: value for name, value in os.environ.items() if name.startswith("nnUNet_")}


def run_here(tasks: Sequence[Task], folder: Folder) -> None:
    """Runs what is missing in this process, one task after the other (--executor debug).

    Raises:
        SalstmError: at the end, if a task failed or is at work elsewhere.
    """
    tried: set[str] = set()
    while task := next((t for t, _ in _startable(tasks, folder.states(tasks), tried)), None):
        tried.add(task.name)
        print(f"{task.name}: starts", flush=True)
        try:
            Worker(task, folder.of(task), environment())()
            print(f"{task.name}: finished", flush=True)
        except (Held, Failed) as error:
            print(f"{task.name}: {error}", flush=True)
    _say_what_is_missing(folder.states(tasks))


def run_locally(study: Study, tasks: Sequence[Task], folder: Folder, parallel: int | None) -> None:
    """Runs what is missing on this machine, several tasks at a time, and looks on until all is done or stuck.

    Tasks run in processes of their own: what has been started goes on if this process ends, and it takes what runs
    already for what it is.

    Args:
        study: of the tasks.
        tasks: all of the study's.
        folder: of the study.
        parallel: how many run at once; None for as many as there are GPUs.

    Raises:
        SalstmError: at the end, if a task failed.
    """
    import submitit

    gpus = gpus_of_this_machine() if study.device == "cuda" else ()
    executor = submitit.LocalExecutor(folder.study / "jobs")
    # The job of a task, how many attempts there were before, and its GPUs.
    started: dict[str, tuple[submitit.Job, int, tuple[str, ...]]] = {}
    failed: set[str] = set()
    shown: dict[str, str] = {}
    while True:
        # Before the states are read, which then say how these have ended.
        done = [name for name, (job, *_) in started.items() if job.done()]
        states = folder.states(tasks)
        for name in done:
            _, before, _ = started.pop(name)
            new = states[name].attempts[before:]
            # Its time was over if it was stopped; it goes on. Anything else would happen again.
            if states[name].name != "finished" and not (new and new[-1].status == STOPPED):
                failed.add(name)
        _show_changes(states, shown)
        running = [name for name, state in states.items() if state.name == "running" or name in started]
        used = {gpu for *_, taken in started.values() for gpu in taken} | (_used_gpus(folder) if gpus else set())
        free = [gpu for gpu in gpus if gpu not in used]
        for task, state in _startable(tasks, states, {*failed, *started}):
            if len(running) >= (parallel or max(1, len(gpus))) or len(free) < task.resources.gpus:
                break
            taken, free = tuple(free[: task.resources.gpus]), free[task.resources.gpus :]
            executor.update_parameters(timeout_min=task.resources.hours * 60)
            worker = Worker(task, folder.of(task), environment(), taken)
            started[task.name] = executor.submit(worker), len(state.attempts), taken
            running.append(task.name)
        if not running:
            break
        time.sleep(INTERVAL)
    _say_what_is_missing(states)


def submit_to_slurm(study: Study, tasks: Sequence[Task], folder: Folder) -> None:
    """Submits what is missing as job arrays; Slurm starts each when those before it have ended well.

    Raises:
        SalstmError: if someone else is submitting, or sbatch refuses.
    """
    try:
        submission = begin(folder.tasks.parent / "submissions")
    except Held as error:
        raise SalstmError(f"another run is submitting tasks; wait until it is done: {error}") from None
    try:
        states, jobs = folder.states(tasks), Jobs()
        ids = {
            task.name: job
            for task in tasks
            if (job := folder.queued_job(task, jobs) or _running_job(states[task.name])) is not None
        }
        # The tasks of an array wait for the same.
        arrays: dict[tuple[str, ...], list[Task]] = {}
        for task in tasks:
            if states[task.name].name not in ("finished", "running", "queued"):
                arrays.setdefault((task.kind, task.dataset.name, *task.after), []).append(task)
        elsewhere = 0
        for members in arrays.values():
            after = [name for name in members[0].after if states[name].name != "finished"]
            if not ids.keys() >= set(after):
                elsewhere += len(members)
                continue
            for task, job in zip(members, _submit(study, members, folder, [ids[name] for name in after]), strict=True):
                folder.queue(task, job)
                ids[task.name] = job
            kind, job = members[0].kind, ids[members[0].name].partition("_")[0]
            number = f"{len(members)} task{'s' if len(members) > 1 else ''}"
            print(f"{kind}, {members[0].subject}: {number}, job {job}")
        if not arrays:
            print("Nothing to submit: every task is finished, runs or is queued.")
        if elsewhere:
            print(f"{elsewhere} tasks wait for some that do not run on Slurm; submit again when these are finished.")
    finally:
        submission.end(0)


def _submit(study: Study, tasks: Sequence[Task], folder: Folder, after: Sequence[str]) -> list[str]:
    """Submits tasks of one kind as an array that waits for other jobs, and returns their jobs."""
    import submitit

    kind, slurm = tasks[0].kind, study.slurm
    resources = study.resources[kind]
    executor = submitit.SlurmExecutor(folder.study / "jobs", max_num_timeout=REQUEUES)
    places = {name: getattr(slurm, name) for name in ("partition", "account", "qos", "constraint")}
    options: dict[str, Any] = {"requeue": True, **slurm.options}
    if after:
        # Else Slurm would keep jobs forever that wait for one that failed.
        options |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    executor.update_parameters(
        job_name=f"{study.name}_{kind}",
        time=int(max(1, resources.hours * 60)),
        mem=f"{resources.memory_gb}GB",
        cpus_per_task=resources.cpus,
        # Since Slurm 22.05 srun does not take it from the job.
        srun_args=["--cpus-per-task", str(resources.cpus)],
        array_parallelism=slurm.parallel,
        additional_parameters=options,
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **{name: value for name, value in places.items() if value is not None},
    )
    try:
        with executor.batch():
            jobs = [executor.submit(Worker(task, folder.of(task), environment())) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        raise SalstmError(f"Slurm refused the tasks of kind {kind}: {' '.join(str(error).split())}") from None
    return [job.job_id for job in jobs]


def _startable(tasks: Sequence[Task], states: dict[str, State], tried: set[str]) -> list[tuple[Task, State]]:
    """Returns the tasks that can be started, each with its state, whose predecessors are finished."""
    return [
        (task, states[task.name])
        for task in tasks
        if states[task.name].name in _STARTABLE
        and task.name not in tried
        and all(states[name].name == "finished" for name in task.after)
    ]


def _running_job(state: State) -> str | None:
    return state.last.job if state.name == "running" and state.last is not None else None


def _used_gpus(folder: Folder) -> set[str]:
    """Returns the GPUs of this machine on which tasks run, of any study."""
    jobs, host = Jobs(), socket.gethostname()
    last = [attempts[-1] for place in folder.tasks.iterdir() if (attempts := attempts_in(place))]
    return {gpu for a in last if a.host == host and a.is_under_way(jobs) for gpu in a.gpus}


def _show_changes(states: dict[str, State], shown: dict[str, str]) -> None:
    for name, state in states.items():
        if state.name != shown.get(name) and state.name in ("running", "finished", "interrupted", "failed"):
            reason = f" ({state.reason})" if state.reason else ""
            print(f"{time.strftime('%H:%M:%S')} {name}: {state.name}{reason}", flush=True)
        shown[name] = state.name


def _say_what_is_missing(states: dict[str, State]) -> None:
    missing = [name for name, state in states.items() if state.name != "finished"]
    if missing:
        raise SalstmError(
            f"{len(missing)} of {len(states)} tasks are not finished, the first: {missing[0]}; see: matrix status"
        )
    print(f"All {len(states)} tasks are finished.")
