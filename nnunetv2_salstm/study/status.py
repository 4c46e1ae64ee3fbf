"""What a study's tasks are doing, and how long the rest will take."""

from collections.abc import Mapping, Sequence
from statistics import median

from nnunetv2_salstm.evaluation.runs import TrainingLog
from nnunetv2_salstm.study.state import STATES, Folder, State
from nnunetv2_salstm.study.study import KINDS, epochs_of
from nnunetv2_salstm.study.tasks import Task, Train
from nnunetv2_salstm.study.worker import LOG, last_lines
from nnunetv2_salstm.tables import markdown_table

# Of the log of a task that failed.
LINES = 5


def report(tasks: Sequence[Task], folder: Folder) -> str:
    """Returns the state of all tasks as text: counts, what runs, what failed with its log, and the time left."""
    states = folder.states(tasks)
    parts = [_counts(tasks, states)]
    for task in tasks:
        state = states[task.name]
        if state.name == "running" and state.last is not None:
            parts.append(f"running: {task.name}, {_hours(state.last.seconds)} on {state.last.host}{_epoch(task)}")
        elif state.name in ("failed", "interrupted"):
            log = folder.of(task) / LOG
            parts.append("\n".join([
                f"{state.name}: {task.name}: {state.reason}",
                *(f"    {line}" for line in last_lines(log, LINES)),
                f"    ({log})",
            ]))  # fmt: skip
    return "\n\n".join([*parts, time_left(tasks, states)])


def time_left(tasks: Sequence[Task], states: Mapping[str, State]) -> str:
    """Returns a sentence on how long the unfinished tasks take, from what finished ones of the kind took."""
    left = [task for task in tasks if states[task.name].name != "finished"]
    if not left:
        return "All tasks are finished."
    seconds = {task.name: _seconds_left(task, tasks, states) for task in left}
    known = [value for value in seconds.values() if value is not None]
    at_once = max(1, sum(states[task.name].name == "running" for task in left))
    unknown = len(seconds) - len(known)
    but = f", and {unknown} tasks of which nothing like them has run yet" if unknown else ""
    if not known:
        return f"Time left: not known, as nothing like the {unknown} tasks left has run yet."
    # No schedule ends before its longest task.
    wall, work = max(sum(known) / at_once, max(known)), sum(known)
    return f"Time left: about {_hours(wall)} with {at_once} at once, {_hours(work)} of work in {len(known)} tasks{but}."


def _seconds_left(task: Task, tasks: Sequence[Task], states: Mapping[str, State]) -> float | None:
    spent = sum(attempt.seconds for attempt in states[task.name].attempts)
    alike = [other for other in tasks if _are_alike(task, other) and states[other.name].name == "finished"]
    took = [seconds for other in alike if (seconds := sum(a.seconds for a in states[other.name].attempts))]
    if took:
        return max(0.0, median(took) - spent)
    return _seconds_of_epochs_left(task, tasks) if isinstance(task, Train) else None


def _are_alike(task: Task, other: Task) -> bool:
    """Whether two tasks take about as long, as far as it is known before they have run."""
    if task.kind != other.kind:
        return False
    if isinstance(task, Train) and isinstance(other, Train):
        return _work(task) == _work(other)
    return True


def _work(task: Train) -> tuple[object, ...]:
    return task.dataset, task.plans, task.configuration, epochs_of(task.trainer)


def _seconds_of_epochs_left(task: Train, tasks: Sequence[Task]) -> float | None:
    """Returns the time of a training's epochs left, from its own log or those of trainings on the same data."""
    own = TrainingLog.read(task.folder).epoch_seconds
    measured = list(own.values())
    for other in tasks:
        if not own and isinstance(other, Train) and _work(other)[:3] == _work(task)[:3]:
            measured += TrainingLog.read(other.folder).epoch_seconds.values()
    return (epochs_of(task.trainer) - len(own)) * median(measured) if measured else None


def _counts(tasks: Sequence[Task], states: Mapping[str, State]) -> str:
    rows = [["", *STATES, "all"]]
    for kind in KINDS:
        of_kind = [states[task.name].name for task in tasks if task.kind == kind]
        if of_kind:
            rows.append([kind, *(str(of_kind.count(name)) for name in STATES), str(len(of_kind))])
    # Columns of nothing but 0 say nothing.
    shown = [place for place, column in enumerate(zip(*rows, strict=True)) if set(column[1:]) != {"0"}]
    return markdown_table([[row[place] for place in shown] for row in rows])


def _epoch(task: Task) -> str:
    if not isinstance(task, Train):
        return ""
    return f", epoch {len(TrainingLog.read(task.folder).epoch_seconds)} of {epochs_of(task.trainer)}"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
