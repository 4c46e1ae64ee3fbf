"""The jobs of a study: each is one stock command, and nnU-Net's own outputs tell whether it is finished."""

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.files import json_if_whole, make_once
from nnunetv2_salstm.study.dataset import FOLDS, Dataset
from nnunetv2_salstm.study.log import Log
from nnunetv2_salstm.study.schema import Resources, Study

DEFAULT_PLANS = "nnUNetPlans"
# The folder of the jobs of all studies, beside those of the studies; no name begins so.
JOBS = "_jobs"
# Which of nnU-Net's planners makes plans of a name.
PLANNERS = {
    DEFAULT_PLANS: "ExperimentPlanner",
    **{f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")},
}


@dataclass(frozen=True)
class Job:
    """One command, what it may use, and the names of the jobs that must be finished before it.

    Attributes:
        name: the same in all studies that share the job's outputs; it begins with the kind of the job.
        study: that needs it.
        dataset: on which it works; the first of them for a study's report.
        after: names of jobs.
    """

    name: str
    study: Study
    dataset: Dataset
    after: tuple[str, ...]

    @property
    def kind(self) -> str:
        """preprocess, train, predict, compare or report."""
        return self.name.partition("__")[0]

    @property
    def resources(self) -> Resources:
        """What it may use."""
        return self.study.resources[self.kind]

    @property
    def lock(self) -> Path:
        """Its lock, which one process at a time holds, of whatever study."""
        return study_folder(JOBS) / f"{self.name}.lock"

    @property
    def log(self) -> Log:
        """What its command printed."""
        return Log(study_folder(JOBS) / f"{self.name}.log")

    def command(self) -> list[str]:
        """Returns the command that does what is missing now."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """Returns what of its outputs is not there, None if all is."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Does before the command what several at once would do over each other; nothing for most."""


@dataclass(frozen=True)
class Preprocess(Job):
    """Plans and preprocesses a data set; plans that are there are kept."""

    plans: str

    @property
    def lock(self) -> Path:
        """One for all plans of a data set, which share its fingerprint."""
        return study_folder(JOBS) / f"preprocess__{self.dataset.name}.lock"

    @property
    def plans_file(self) -> Path:
        """nnU-Net's plans."""
        return self.dataset.preprocessed / f"{self.plans}.json"

    def command(self) -> list[str]:
        """Returns nnU-Net's command for what is missing."""
        processes = str(self.resources.cpus)
        if _json(self.plans_file) is None:
            planner = unless_default("-pl", PLANNERS[self.plans], PLANNERS[DEFAULT_PLANS])
            return [
                "nnUNetv2_plan_and_preprocess", "-d", self.dataset.number, *planner, "-c", *self.study.configurations,
                "-npfp", processes, "-np", processes,
            ]  # fmt: skip
        # nnU-Net empties the folder of a configuration first, from which others may be training.
        configurations = self.study.configurations
        missing = [name for name in configurations if self._cases_missing(name)] or configurations
        plans = unless_default("-plans_name", self.plans, DEFAULT_PLANS)
        return ["nnUNetv2_preprocess", "-d", self.dataset.number, *plans, "-c", *missing, "-np", processes]

    def missing(self) -> str | None:
        """Returns which plans or preprocessed cases are not there."""
        if _json(self.plans_file) is None:
            return f"there are no plans at {self.plans_file}"
        return next(filter(None, map(self._cases_missing, self.study.configurations)), None)

    def _cases_missing(self, configuration: str) -> str | None:
        known = (_json(self.plans_file) or {}).get("configurations", {})
        if configuration not in known:
            return f"{self.plans_file} has no configuration {configuration}; it has {', '.join(known)}"
        line = [configuration]
        while "data_identifier" not in known[line[-1]]:
            line.append(known[line[-1]].get("inherits_from"))
            if line[-1] not in known or line[-1] in line[:-1]:
                return (
                    f"configuration {configuration} of {self.plans_file} inherits from nothing that is there: "
                    f"{line[-1]}"
                )
        folder = self.dataset.preprocessed / known[line[-1]]["data_identifier"]
        # The last of the files that nnU-Net writes for a case.
        absent = [case for case in self.dataset.training_cases if not (folder / f"{case}.pkl").is_file()]
        return f"{len(absent)} of {len(self.dataset.training_cases)} cases are not in {folder}" if absent else None


@dataclass(frozen=True)
class Train(Job):
    """Trains one fold and, as nnU-Net does, predicts its validation cases."""

    trainer: str
    plans: str
    configuration: str
    fold: int | str

    @property
    def data(self) -> tuple[str, str, str]:
        """On what it trains: data set, plans and configuration."""
        return self.dataset.name, self.plans, self.configuration

    @property
    def folder(self) -> Path:
        """nnU-Net's results of the fold."""
        return self.dataset.results / model_name(self.trainer, self.plans, self.configuration) / f"fold_{self.fold}"

    @property
    def checkpoint(self) -> Path:
        """The network at the end of the training."""
        return self.folder / "checkpoint_final.pth"

    @property
    def summary(self) -> Path:
        """nnU-Net's scores of the validation, the last file that it writes."""
        return self.folder / "validation" / "summary.json"

    def command(self) -> list[str]:
        """Returns the training, with --c if there is a checkpoint, or --val if only the validation is missing."""
        command = ["nnUNetv2_train", self.dataset.number, self.configuration, str(self.fold), "-tr", self.trainer]
        command += unless_default("-p", self.plans, DEFAULT_PLANS)
        command += unless_default("-num_gpus", str(max(1, self.resources.gpus)), "1")
        command += unless_default("-device", self.study.device, "cuda")
        if self.checkpoint.is_file():
            return [*command, "--val"]
        started = any((self.folder / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
        return [*command, "--c"] if started else command

    def prepare(self) -> None:
        """Makes nnU-Net's folds, which its first training would make: an array of them is many first trainings."""
        splits_file, cases = self.dataset.splits_file, self.dataset.training_cases
        if self.fold == "all" or splits_file.is_file() or len(cases) < FOLDS:
            return
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        # It is the other's file that counts where another process was quicker; they are equal.
        with suppress(FileExistsError):
            make_once(splits_file, json.dumps(generate_crossval_split(cases, n_splits=FOLDS), indent=4))

    def missing(self) -> str | None:
        """Returns whether the last checkpoint or the validation is not there."""
        if not self.checkpoint.is_file():
            return f"there is no {self.checkpoint}"
        return None if _json(self.summary) else f"there is no {self.summary}"


@dataclass(frozen=True)
class Made(Job):
    """A job that is done again when what it works on is newer than what it made.

    Attributes:
        words: its command.
        inputs, outputs: files.
    """

    words: list[str]
    inputs: list[Path]
    outputs: list[Path]

    def command(self) -> list[str]:
        """Returns its only command."""
        return self.words

    def missing(self) -> str | None:
        """Returns what is not there, of something else, or older than what it is made of."""
        if reason := self._incomplete():
            return reason
        for file in self.inputs:
            if not file.is_file():
                return f"there is no {file}"
            for output in self.outputs:
                if output.stat().st_mtime < file.stat().st_mtime:
                    return f"{output} is older than {file}"
        return None

    def _incomplete(self) -> str | None:
        raise NotImplementedError


class Predict(Made):
    """Predicts a part of the test cases with all folds of the study."""

    def _incomplete(self) -> str | None:
        if absent := [file for file in self.outputs if not file.is_file()]:
            return f"{len(absent)} of {len(self.outputs)} predictions are not in {absent[0].parent}"
        if self.log.was_cut_short():
            return "the last attempt was cut short, which may have left half a file behind"
        return None


class Page(Made):
    """Writes a page, and before it the same for programs: two outputs."""

    def _incomplete(self) -> str | None:
        written = _json(self.outputs[0])
        if written is None or not self.outputs[1].is_file():
            return f"there is no report at {self.outputs[1]}"
        return self._differs(written)

    def _differs(self, written: dict[str, Any]) -> str | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Compare(Page):
    """Compares the methods on one data set.

    Attributes:
        plans, configuration: of the networks.
        cases: "validation" or "test".
    """

    plans: str
    configuration: str
    cases: str

    def _differs(self, written: dict[str, Any]) -> str | None:
        command = written.get("inputs", {}).get("command")
        if command == shlex.join(self.words):
            return None
        return f"{self.outputs[0]} is of another comparison: {command}"


class Report(Page):
    """Puts all comparisons of a study on one page."""

    def _differs(self, written: dict[str, Any]) -> str | None:
        if written.get("study", {}).get("text") != self.study.file.read_text(encoding="utf-8-sig"):
            return f"{self.outputs[0]} is of another text of {self.study.file}"
        return f"{self.outputs[0]} lacks {', '.join(written['missing'])}" if written["missing"] else None


def study_folder(name: str) -> Path:
    """Returns where a study keeps its reports and predictions: below nnUNet_results, with those who share these.

    Raises:
        SalstmError: if nnU-Net's folder of results is not there.
    """
    return nnunet_folder("nnUNet_results") / "studies" / name


def model_name(trainer: str, plans: str, configuration: str) -> str:
    """Returns how nnU-Net calls the folder of a model."""
    return f"{trainer}__{plans}__{configuration}"


def unless_default(option: str, value: str, default: str) -> list[str]:
    """Returns a command's option with its value, nothing where it is what the command does anyway."""
    return [] if value == default else [option, value]


def _json(file: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if it is not there or was left half-written."""
    values = json_if_whole(file)
    return values if isinstance(values, dict) else None
