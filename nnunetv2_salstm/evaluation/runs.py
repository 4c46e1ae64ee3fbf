"""What is compared: methods, each a network trained once or several times, and where their predictions lie."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.host.trainer_names import split_seed, without_length

if TYPE_CHECKING:
    import pandas as pd

_NNUNET = re.compile(r": nnU-Net (?P<version>\S+) \((?P<source>release|checkout)\)")
# Of the pseudo Dice, which nnU-Net may write as 1e-04, with numpy's type around it.
NUMBER = re.compile(r"nan|(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_SPLIT = re.compile(r"split has (?P<train>\d+) training and (?P<test>\d+) validation cases")


@dataclass(frozen=True)
class Training:
    """A fold folder that nnU-Net left behind."""

    folder: Path

    @property
    def validation(self) -> Path:
        """The folder of the predicted validation cases."""
        return self.folder / "validation"

    @cached_property
    def debug(self) -> dict[str, Any]:
        """What nnU-Net wrote about the training, {} where it did not."""
        file = self.folder / "debug.json"
        return read_json(file, "values") if file.is_file() else {}

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
        nnunet: version of nnU-Net, and "release" or "checkout", of every start; stock trainers do not write it.
        split: training and validation cases, of every start.
    """

    train_loss: dict[int, float] = field(default_factory=dict)
    val_loss: dict[int, float] = field(default_factory=dict)
    pseudo_dice: dict[int, float] = field(default_factory=dict)
    epoch_seconds: dict[int, float] = field(default_factory=dict)
    repeated_seconds: list[float] = field(default_factory=list)
    nnunet: set[str] = field(default_factory=set)
    split: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "TrainingLog":
        """Reads every training_log_*.txt of a fold in order of time; of epochs trained again the last counts."""
        log, epoch = cls(), None
        for file in sorted(folder.glob("training_log_*.txt"), key=_when):
            for line in file.read_text(errors="replace").splitlines():
                if match := re.search(r": Epoch (\d+)\s*$", line):
                    epoch = int(match[1])
                elif match := _NNUNET.search(line):
                    log.nnunet.add(f"{match['version']} ({match['source']})")
                elif match := _SPLIT.search(line):
                    log.split.append((int(match["train"]), int(match["test"])))
                elif epoch is None:
                    continue
                elif match := re.search(r": (train_loss|val_loss) (\S+)", line):
                    getattr(log, match[1])[epoch] = float(match[2])
                elif match := re.search(r": Epoch time: (\S+) s", line):
                    if epoch in log.epoch_seconds:
                        log.repeated_seconds.append(log.epoch_seconds[epoch])
                    log.epoch_seconds[epoch] = float(match[1])
                elif match := re.search(r": Pseudo dice \[(.*)\]", line):
                    values = [float(v) for v in NUMBER.findall(match[1])]
                    values = [value for value in values if value == value]
                    if values:
                        log.pseudo_dice[epoch] = sum(values) / len(values)
        return log


def _when(log: Path) -> tuple[list[int], str]:
    """Returns what orders logs by time: the month and day in their names have no leading zeros."""
    return [int(number) for number in re.findall(r"\d+", log.stem)], log.name


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
    folds: dict[int | str, Training] = field(default_factory=dict)
    plans: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """The seed that the name says, "" without one."""
        return split_seed(self.name)[1]


def methods_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Returns the runs of each method, which differ in the seed only, by its name, in the order of the runs.

    Where all are of one method (A/A) each run stands for itself.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(split_seed(run.name)[0], []).append(run)
    return methods if len(methods) > 1 else {run.name: [run] for run in runs}


def short_names(methods: Sequence[str]) -> dict[str, str]:
    """Returns the methods' names without what all share: nnU-Net's prefix, and the length of the training."""
    lengths = {name.removeprefix(without_length(name)) for name in methods}
    shared = lengths.pop() if len(lengths) == 1 else ""
    short = {name: name.removesuffix(shared).removeprefix("nnUNetTrainer") or name for name in methods}
    return short if len(set(short.values())) == len(methods) else {name: name for name in methods}


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
            training = Training(folder / f"fold_{fold}")
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
        plans_json = read_json(folder / "plans.json", "plans")
        found.append(Run(trainer, {fold: t.validation for fold, t in members.items()}, members, plans_json))
    return found


def runs_of_folders(predictions: Mapping[str, Path]) -> list[Run]:
    """Returns a run for each named folder of predictions.

    Raises:
        SalstmError: if one is not a folder.
    """
    for name, folder in predictions.items():
        if not folder.is_dir():
            raise SalstmError(f"-i {name}={folder}: there is no such folder")
    return [Run(name, {None: folder}) for name, folder in predictions.items()]


def curves_table(methods: Mapping[str, Sequence[Run]]) -> "pd.DataFrame":
    """Returns the learning curves of all trainings: method, training, epoch, quantity, value."""
    import pandas as pd

    rows = [
        (method, f"{run.name} fold {fold}", epoch, quantity, value)
        for method, runs in methods.items()
        for run in runs
        for fold, training in run.folds.items()
        for quantity in ("train_loss", "val_loss", "pseudo_dice")
        for epoch, value in getattr(training.log, quantity).items()
    ]
    return pd.DataFrame(rows, columns=["method", "training", "epoch", "quantity", "value"])


def overlap_of(runs: Iterable[Run], cases: Mapping[Any, int], references: int) -> float | None:
    """Returns n_test / n_train of the trainings, their mean; None where it is not known.

    Args:
        runs: with their trainings.
        cases: validation cases of each fold.
        references: cases of the data set, which a fold is trained on but for its own.
    """
    found = []
    for run in runs:
        for fold, training in run.folds.items():
            train, test = training.log.split[-1] if training.log.split else (references - cases[fold], cases[fold])
            if train > 0 and fold != "all":
                found.append(test / train)
    return sum(found) / len(found) if found else None
