"""How a study stands, from nnU-Net's outputs and the records of its jobs, and how long the rest will take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from nnunetv2_salstm.evaluation.runs import TrainingLog
from nnunetv2_salstm.study.jobs import Job, Train, unfinished
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


def status_of(study: Study, jobs: Sequence[Job]) -> Status:
    """Reads how a study stands, whether or not a launcher runs."""
    left = unfinished(jobs)
    epochs = {run: study.epochs_of(method) for method in study.trainers for run in study.runs_of(method)}
    states: dict[str, str] = {}
    running, failed = [], {}
    for job in jobs:
        record, who = job.record, None
        state = "finished"
        if job.name in left:
            who = record.holder()
            if who is not None:
                state = "running"
            else:
                state = _state_at_rest(job)
        states[job.name] = state
        if state == "running":
            epoch = f", epoch {len(_log(job).epoch_seconds)} of {epochs[job.trainer]}" if isinstance(job, Train) else ""
            running.append(f"{job.name}, {who}{epoch}")
        elif state in ("failed", "interrupted"):
            status = record.status()
            why = "interrupted" if status is None else f"ended with status {status}, and {left[job.name]}"
            failed[f"{job.name}: {why}"] = [*record.said(LINES), f"({record.log})"]
    counts = {
        kind: {state: sum(states[job.name] == state for job in jobs if job.kind == kind) for state in STATES}
        for kind in KINDS
        if any(job.kind == kind for job in jobs)
    }
    return Status(counts, running, failed, _time_left(jobs, states, epochs))


def _state_at_rest(job: Job) -> str:
    """Returns the state of a job that is not finished and that nobody is at."""
    record = job.record
    if not record.was_cut_short():
        # It may have ended well long ago: predictions and reports are made again when what they are of is newer.
        return "missing"
    return "interrupted" if record.status() is None else "failed"


def _time_left(jobs: Sequence[Job], states: Mapping[str, str], epochs: Mapping[str, int]) -> str:
    left = [job for job in jobs if states[job.name] != "finished"]
    if not left:
        return "All jobs are finished."
    seconds = [_seconds_left(job, jobs, states, epochs) for job in left]
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    if not known:
        return f"Time left: not known, as nothing like the {unknown} jobs left has run yet."
    at_once = max(1, sum(states[job.name] == "running" for job in left))
    # No order of jobs ends before its longest one.
    wall, work = max(sum(known) / at_once, max(known)), sum(known)
    but = f", and {unknown} jobs of which nothing like them has run yet" if unknown else ""
    return f"Time left: about {_hours(wall)} with {at_once} at once, {_hours(work)} of work in {len(known)} jobs{but}."


def _seconds_left(job: Job, jobs: Sequence[Job], states: Mapping[str, str], epochs: Mapping[str, int]) -> float | None:
    """Returns how long a job takes, from its own epochs or from finished jobs like it; None where there are none."""
    if not isinstance(job, Train):
        took = [other.record.seconds() for other in jobs if other.kind == job.kind and states[other.name] == "finished"]
        took = [seconds for seconds in took if seconds]
        return median(took) if took else None
    own = _log(job).epoch_seconds
    measured = list(own.values())
    if not own:
        # Those of the same trainer before those of others on the same data.
        alike = [other for other in jobs if isinstance(other, Train) and other.data == job.data and other != job]
        for candidates in ([other for other in alike if other.trainer == job.trainer], alike):
            measured = measured or [s for other in candidates for s in _log(other).epoch_seconds.values()]
    return (epochs[job.trainer] - len(own)) * median(measured) if measured else None


def _log(training: Train) -> TrainingLog:
    return TrainingLog.read(training.folder)


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
