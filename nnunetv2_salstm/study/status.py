"""How a study stands, from nnU-Net's outputs and the records of its jobs, and how long the rest will take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from nnunetv2_salstm.study.graph import unfinished
from nnunetv2_salstm.study.jobs import Job, Train
from nnunetv2_salstm.study.locks import holder
from nnunetv2_salstm.study.schema import KINDS, Study

# In the order in which they are counted.
STATES = ("finished", "running", "failed", "interrupted", "missing")
# Of the log of a job that failed.
LINES = 5


@dataclass(frozen=True)
class Status:
    """How a study stands.

    Attributes:
        counts: by kind of job and state.
        running: a sentence for each job.
        failed: the reason and the last lines of the log for each job that failed or was interrupted.
        left: a sentence on the time left.
    """

    counts: Mapping[str, Mapping[str, int]]
    running: list[str]
    failed: dict[str, list[str]]
    left: str


def status_of(study: Study, jobs: Sequence[Job], epoch_seconds: Mapping[str, Sequence[float]]) -> Status:
    """Reads how a study stands, whether or not a launcher runs.

    Args:
        study: whose it is.
        jobs: of the study.
        epoch_seconds: of the epochs that each training has finished, by the job's name.
    """
    left = unfinished(jobs)
    epochs = {run: study.epochs_of(method) for method in study.trainers for run in study.runs_of(method)}
    states: dict[str, str] = {}
    running, failed = [], {}
    for job in jobs:
        who = holder(job.lock) if job.name in left else None
        state = states[job.name] = "running" if who else _state(job) if job.name in left else "finished"
        if state == "running":
            done = f", epoch {len(epoch_seconds[job.name])} of {epochs[job.trainer]}" if isinstance(job, Train) else ""
            running.append(f"{job.name}, {who}{done}")
        elif state in ("failed", "interrupted"):
            status = job.log.status()
            why = "interrupted" if status is None else f"ended with status {status}, and {left[job.name]}"
            failed[f"{job.name}: {why}"] = [*job.log.said(LINES), f"({job.log.file})"]
    of_kind = {kind: [states[job.name] for job in jobs if job.kind == kind] for kind in KINDS}
    counts = {kind: {state: found.count(state) for state in STATES} for kind, found in of_kind.items() if found}
    seconds = [
        _seconds_left(job, jobs, states, epochs, epoch_seconds) for job in jobs if states[job.name] != "finished"
    ]
    return Status(counts, running, failed, _time_left(seconds, len(running)))


def _state(job: Job) -> str:
    """Returns the state of a job that is not finished and that nobody is at."""
    if not job.log.was_cut_short():
        # It may have ended well long ago: predictions and reports are made again when what they are of is newer.
        return "missing"
    return "interrupted" if job.log.status() is None else "failed"


def _time_left(seconds: Sequence[float | None], running: int) -> str:
    """Returns a sentence on the time left; seconds are None of jobs of which nothing like them has run."""
    if not seconds:
        return "All jobs are finished."
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    if not known:
        return f"Time left: not known, as nothing like the {unknown} jobs left has run yet."
    at_once = max(1, running)
    work = sum(known)
    # No order of jobs ends before its longest one.
    wall = max(work / at_once, *known)
    but = f", and {unknown} jobs of which nothing like them has run yet" if unknown else ""
    return f"Time left: about {_hours(wall)} with {at_once} at once, {_hours(work)} of work in {len(known)} jobs{but}."


def _seconds_left(
    job: Job,
    jobs: Sequence[Job],
    states: Mapping[str, str],
    epochs: Mapping[str, int],
    epoch_seconds: Mapping[str, Sequence[float]],
) -> float | None:
    """Returns how long a job takes, from its own epochs or from finished jobs like it; None where there are none."""
    if not isinstance(job, Train):
        finished = (other for other in jobs if other.kind == job.kind and states[other.name] == "finished")
        took = list(filter(None, (other.log.seconds() for other in finished)))
        return median(took) if took else None
    own = epoch_seconds[job.name]
    # Its own epochs before those of the same trainer, and these before those of others on the same data.
    alike = [other for other in jobs if isinstance(other, Train) and other.data == job.data]
    for candidates in ([job], [other for other in alike if other.trainer == job.trainer], alike):
        if measured := [seconds for other in candidates for seconds in epoch_seconds[other.name]]:
            return (epochs[job.trainer] - len(own)) * median(measured)
    return None


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
