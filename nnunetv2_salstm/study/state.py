"""The state of a study's tasks, read from disk: nnU-Net's outputs first, then the attempts at them."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.study.attempts import STOPPED, Attempt, Jobs, attempts_in
from nnunetv2_salstm.study.tasks import Compare, Predict, Preprocess, Report, Task

# In the order in which they are counted.
STATES = ("finished", "running", "queued", "ready", "waiting", "interrupted", "failed", "blocked")


@dataclass(frozen=True)
class State:
    """How a task stands.

    Attributes:
        name: one of `STATES`: "ready" to be started; "waiting" for others; "interrupted" before its end, "failed",
            and "blocked" by a task that failed.
        attempts: at the task, the first first.
        reason: of what is not as it should be.
    """

    name: str
    attempts: tuple[Attempt, ...]
    reason: str = ""

    @property
    def last(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None


def why_unfinished(task: Task, last: Attempt | None) -> str | None:
    """Returns why a task is not finished after its last attempt, None if it is."""
    missing = task.missing()
    if missing is None and isinstance(task, Predict) and last is not None and last.status != 0:
        return "its last attempt was cut short, which may have left half a file behind"
    return missing


class Folder:
    """Where a study keeps what is not nnU-Net's: below nnUNet_results, so that all who share these share it.

    Args:
        study: its name.

    Raises:
        SalstmError: if nnU-Net's folder of results is not there.
    """

    def __init__(self, study: str):
        # Tasks are not below their study, as studies that overlap share trainings.
        root = nnunet_folder("nnUNet_results") / "matrix"
        self.tasks, self.study = root / "tasks", root / "studies" / study

    def of(self, task: Task) -> Path:
        """Returns the folder of a task."""
        return self.tasks / task.name

    def queue(self, task: Task, job: str) -> None:
        """Records the Slurm job that will run a task."""
        self.of(task).mkdir(parents=True, exist_ok=True)
        with written_whole(self._queued(task)) as file:
            file.write_text(json.dumps({"job": job}))

    def queued_job(self, task: Task, jobs: Jobs) -> str | None:
        """Returns the Slurm job that is queued for a task or runs it, None if there is none."""
        file = self._queued(task)
        job = json.loads(file.read_text())["job"] if file.is_file() else None
        return job if job is not None and job in jobs else None

    def _queued(self, task: Task) -> Path:
        return self.of(task) / "queued.json"

    def states(self, tasks: Sequence[Task]) -> dict[str, State]:
        """Returns the state of each task, by name; tasks stand behind those that must be finished before them."""
        jobs = Jobs()
        found: dict[str, State] = {}
        for task in tasks:
            found[task.name] = self._state(task, [found[name] for name in task.after], jobs)
        for task in reversed(tasks):
            users = [found[other.name] for other in tasks if task.name in other.after]
            needless = users and all(state.name == "finished" for state in users)
            if isinstance(task, Preprocess) and found[task.name].name != "running" and needless:
                found[task.name] = replace(found[task.name], name="finished", reason="nothing needs it any more")
        return found

    def _state(self, task: Task, before: Sequence[State], jobs: Jobs) -> State:
        attempts = tuple(attempts_in(self.of(task)))
        last = attempts[-1] if attempts else None
        if last is not None and last.is_under_way(jobs):
            return State("running", attempts)
        missing = why_unfinished(task, last)
        if missing is None:
            return State("finished", attempts)
        if self.queued_job(task, jobs):
            return State("queued", attempts)
        if last is not None and last.status is None:
            return State("interrupted", attempts, "its process was killed")
        if last is not None and last.status == STOPPED:
            return State("interrupted", attempts, "it was stopped")
        if last is not None and last.status == -signal.SIGTERM:
            # As Slurm cancels a job. SIGKILL may also be for lack of memory, which is a failure.
            return State("interrupted", attempts, "it was told to end")
        if last is not None and last.status:
            return State("failed", attempts, f"ended with status {last.status}: {last.command}")
        if any(state.name in ("failed", "blocked") for state in before):
            return State("blocked", attempts)
        if any(state.name != "finished" for state in before):
            return State("waiting", attempts)
        # A report is made again when what it compares is newer or more.
        if last is not None and not isinstance(task, Compare | Report):
            return State("failed", attempts, f"ended well, but {missing}: {last.command}")
        return State("ready", attempts)
