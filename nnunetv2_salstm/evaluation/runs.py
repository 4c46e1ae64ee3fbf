"""What is compared: arms, each a network trained once or several times, and where their predictions lie."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError

# Runs that differ in the seed only are one arm.
_SEED = re.compile(r"_seed\d+$")
_LENGTH = re.compile(r"(_[1-9]\d*epochs)?(_[1-9]\d*its)?$")


@dataclass(frozen=True)
class Fold:
    """One finished training: a fold folder that nnU-Net left behind."""

    folder: Path

    @property
    def validation(self) -> Path:
        """The folder of the predicted validation cases."""
        return self.folder / "validation"

    @cached_property
    def debug(self) -> dict[str, Any]:
        """What nnU-Net wrote about the training, {} where it did not."""
        file = self.folder / "debug.json"
        return read_json(file) if file.is_file() else {}

    @cached_property
    def log(self) -> "TrainingLog":
        """The training's log."""
        return TrainingLog.read(self.folder)


@dataclass(frozen=True)
class TrainingLog:
    """Learning curves of a training, by epoch, from all its log files: a continued training has several.

    Attributes:
        train_loss, val_loss: by epoch.
        pseudo_dice: mean over the labels, by epoch.
        epoch_seconds: by epoch.
        repeated_seconds: of epochs that were trained again, as an interrupted training goes on from its checkpoint.
    """

    train_loss: dict[int, float] = field(default_factory=dict)
    val_loss: dict[int, float] = field(default_factory=dict)
    pseudo_dice: dict[int, float] = field(default_factory=dict)
    epoch_seconds: dict[int, float] = field(default_factory=dict)
    repeated_seconds: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "TrainingLog":
        """Reads every training_log_*.txt of a fold; epochs that were trained again count as they were last."""
        log, epoch = cls(), None
        for file in sorted(folder.glob("training_log_*.txt")):
            for line in file.read_text(errors="replace").splitlines():
                if match := re.search(r": Epoch (\d+)\s*$", line):
                    epoch = int(match[1])
                elif epoch is None:
                    continue
                elif match := re.search(r": (train_loss|val_loss) (\S+)", line):
                    getattr(log, match[1])[epoch] = float(match[2])
                elif match := re.search(r": Epoch time: (\S+) s", line):
                    if epoch in log.epoch_seconds:
                        log.repeated_seconds.append(log.epoch_seconds[epoch])
                    log.epoch_seconds[epoch] = float(match[1])
                elif match := re.search(r": Pseudo dice \[(.*)\]", line):
                    values = [float(v) for v in re.findall(r"nan|(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?", match[1])]
                    values = [value for value in values if value == value]
                    if values:
                        log.pseudo_dice[epoch] = sum(values) / len(values)
        return log


@dataclass(frozen=True)
class Run:
    """A network trained once: its trainer's name (or the name given to a folder) and predictions by fold.

    Attributes:
        name: the trainer's name, or the user's for a folder.
        predictions: folder of the predictions, by fold; the fold is None for a folder of the user's.
        folds: the trainings behind them, by fold; empty for a folder of the user's.
        plans: plans.json of the model folder, {} where there is none.
    """

    name: str
    predictions: dict[int | str | None, Path]
    folds: dict[int | str, Fold] = field(default_factory=dict)
    plans: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in the seed only."""

    name: str
    runs: list[Run]


def arms_of(runs: Iterable[Run]) -> list[Arm]:
    """Returns the arms in the order in which the runs name them."""
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(_SEED.sub("", run.name), []).append(run)
    return [Arm(name, members) for name, members in arms.items()]


def without_length(name: str) -> str:
    """Returns an arm's name without what it says about the length of the training."""
    return _LENGTH.sub("", name)


def short_names(arms: Sequence[Arm]) -> dict[str, str]:
    """Returns the arms' names without what all of them share: nnU-Net's prefix, and the length of the training."""
    lengths = {arm.name.removeprefix(without_length(arm.name)) for arm in arms}
    shared = lengths.pop() if len(lengths) == 1 else ""
    short = {arm.name: arm.name.removesuffix(shared).removeprefix("nnUNetTrainer") or arm.name for arm in arms}
    return short if len(set(short.values())) == len(arms) else {arm.name: arm.name for arm in arms}


def runs_of_trainers(
    results: Path,
    dataset: str,
    configuration: str,
    plans: str,
    trainers: Sequence[str],
    folds: Sequence[int | str] | None,
) -> list[Run]:
    """Returns a run for each trainer, with its finished folds.

    Args:
        results: nnUNet_results.
        dataset: name of the data set, e.g. Dataset027_ACDC.
        configuration, plans: e.g. 3d_fullres and nnUNetPlans.
        trainers: names of trainers.
        folds: which, or None for those that the first trainer has.

    Raises:
        SalstmError: if a trainer has no results, or not in each of the folds.
    """
    found = []
    for trainer in trainers:
        folder = results / dataset / f"{trainer}__{plans}__{configuration}"
        train = f"nnUNetv2_train {dataset} {configuration} {{}} -tr {trainer}"
        train += "" if plans == "nnUNetPlans" else f" -p {plans}"
        there = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*"))
        if not there:
            raise SalstmError(f"{trainer} has no results in {folder}; make them with: {train.format('FOLD')}")
        if folds is None:
            folds = [int(fold) if fold.isdigit() else fold for fold in there]
        members = {}
        for fold in folds:
            training = Fold(folder / f"fold_{fold}")
            if not training.folder.is_dir():
                raise SalstmError(
                    f"{trainer} has no fold {fold} (it has {', '.join(there)}); make it with: {train.format(fold)}, "
                    "or name the folds that all trainers have with -f"
                )
            if not (training.validation / "summary.json").is_file():
                option = "--val" if (training.folder / "checkpoint_final.pth").is_file() else "--c"
                raise SalstmError(
                    f"{trainer}, fold {fold} is not finished: {training.validation} has no summary.json; go on with: "
                    f"{train.format(fold)} {option}"
                )
            members[fold] = training
        plans_json = read_json(folder / "plans.json")
        found.append(Run(trainer, {fold: t.validation for fold, t in members.items()}, members, plans_json))
    return found


def runs_of_folders(predictions: Mapping[str, Path]) -> list[Run]:
    """Returns a run for each named folder of predictions.

    Raises:
        SalstmError: if one is not a folder.
    """
    for name, folder in predictions.items():
        if not folder.is_dir():
            raise SalstmError(f"--predictions {name}={folder}: there is no such folder")
    return [Run(name, {None: folder}) for name, folder in predictions.items()]


def read_json(file: Path) -> dict[str, Any]:
    """Returns a JSON file's values.

    Raises:
        SalstmError: if it cannot be read.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SalstmError(f"{file} cannot be read: {error}") from None
