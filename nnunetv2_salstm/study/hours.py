"""How long the trainings of a study took, from nnU-Net's own logs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunetv2_salstm.evaluation.runs import Arm, Fold
from nnunetv2_salstm.study.tasks import Train

# A data set, plans and configuration; nets trained on different ones take different times.
Data = tuple[str, str, str]


@dataclass(frozen=True)
class Training:
    """What a training took.

    Attributes:
        data: on which it trained.
        fold: of the data.
        finished: whether it reached its last epoch.
        hours: of its epochs, each once, times the GPUs that were at them.
        repeated: hours of epochs that were trained again after an interruption.
        device: what it trained on, "" where nnU-Net did not say.
    """

    data: Data
    fold: int | str
    finished: bool
    hours: float
    repeated: float
    device: str

    @classmethod
    def read(cls, task: Train) -> "Training | None":
        """Reads the logs of a training, None if they tell of no epoch."""
        fold = Fold(task.folder)
        log, debug = fold.log, fold.debug
        if not log.epoch_seconds:
            return None
        # One that was trained by hand may have had one GPU, whatever the study says.
        gpus = 1 if debug.get("is_ddp") == "False" else max(1, task.resources.gpus)
        device = debug.get("gpu_name", "None")
        return cls(
            (task.dataset.name, task.plans, task.configuration),
            task.fold,
            task.checkpoint.is_file(),
            math.fsum(log.epoch_seconds.values()) / 3600 * gpus,
            math.fsum(log.repeated_seconds) / 3600 * gpus,
            str(debug.get("device", "")) if device == "None" else device,
        )


@dataclass(frozen=True)
class Hours:
    """What the trainings of an arm took.

    Attributes:
        tasks: how many trainings the study has.
        trainings: those with a log.
    """

    tasks: int
    trainings: list[Training]

    @property
    def finished(self) -> int:
        """How many trainings have reached their last epoch."""
        return sum(training.finished for training in self.trainings)

    @property
    def total(self) -> float:
        """Of all epochs, also those that were trained again."""
        return math.fsum(training.hours + training.repeated for training in self.trainings)

    @property
    def repeated(self) -> float:
        """Of epochs that were trained again."""
        return math.fsum(training.repeated for training in self.trainings)

    @property
    def devices(self) -> list[str]:
        """What they trained on."""
        return sorted({training.device for training in self.trainings} - {""})

    def per_training(self, data: Data) -> float | None:
        """Returns the mean of the finished trainings on some data, repeated epochs left out."""
        return _mean([t.hours for t in self.trainings if t.finished and t.data == data])

    def ratio(self, other: "Hours") -> float | None:
        """Returns the hours relative to another arm's, over the data and folds on which both have finished.

        Means over the seeds are compared, repeated epochs left out: interruptions are not the arm's doing.
        """
        ours, theirs = self._by_fold(), other._by_fold()
        shared = [key for key in theirs if key in ours]
        of_theirs = math.fsum(theirs[key] for key in shared)
        return math.fsum(ours[key] for key in shared) / of_theirs if of_theirs else None

    def _by_fold(self) -> Mapping[tuple[Data, int | str], float]:
        found: dict[tuple[Data, int | str], list[float]] = {}
        for training in self.trainings:
            if training.finished:
                found.setdefault((training.data, training.fold), []).append(training.hours)
        return {key: math.fsum(values) / len(values) for key, values in found.items()}


def hours_of(arms: Sequence[Arm], tasks: Sequence[Train]) -> dict[str, Hours]:
    """Returns what each arm took, by name."""
    found = {}
    for arm in arms:
        runs = [run.name for run in arm.runs]
        own = [task for task in tasks if task.trainer in runs]
        found[arm.name] = Hours(len(own), [training for task in own if (training := Training.read(task)) is not None])
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
