"""The jobs of a study: each is one stock command, and nnU-Net's own outputs tell whether it is finished."""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.datasets import find_dataset, nnunet_folder
from nnunetv2_salstm.host.files import make_once
from nnunetv2_salstm.study.records import Record
from nnunetv2_salstm.study.schema import Resources, Study

DEFAULT_PLANS = "nnUNetPlans"
# Of nnU-Net's own cross-validation; it cannot be made of fewer cases.
FOLDS = 5
# Which of nnU-Net's planners makes plans of a name.
PLANNERS = {
    DEFAULT_PLANS: "ExperimentPlanner",
    **{f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")},
}


@dataclass(frozen=True)
class Dataset:
    """A data set in nnU-Net's folders.

    Attributes:
        raw, preprocessed, results: nnU-Net's folders of it, of which only the first needs to be there.
    """

    raw: Path
    preprocessed: Path
    results: Path

    @classmethod
    def find(cls, dataset: str) -> "Dataset":
        """Finds a data set by number or name.

        Raises:
            SalstmError: if it is not there, or nnU-Net's folders are not.
        """
        raw = find_dataset("nnUNet_raw", dataset)
        return cls(raw, nnunet_folder("nnUNet_preprocessed") / raw.name, nnunet_folder("nnUNet_results") / raw.name)

    @property
    def name(self) -> str:
        """Its name, e.g. Dataset027_ACDC."""
        return self.raw.name

    @property
    def number(self) -> str:
        """Its number, as nnU-Net's commands take it."""
        return str(int(self.name[len("Dataset") :].partition("_")[0]))

    @cached_property
    def description(self) -> dict[str, Any]:
        """nnU-Net's dataset.json."""
        return json.loads((self.raw / "dataset.json").read_text())

    @cached_property
    def training_cases(self) -> list[str]:
        """Names of the cases that are preprocessed."""
        return sorted(self.description.get("dataset") or self._cases("imagesTr"))

    @cached_property
    def test_cases(self) -> list[str]:
        """Names of the cases in imagesTs, in the order in which nnU-Net cuts them into parts."""
        return self._cases("imagesTs")

    def _cases(self, folder: str) -> list[str]:
        ending = self.description["file_ending"]
        # Behind a case's name stands its channel, _0000.
        return sorted({file.name[: -len("_0000") - len(ending)] for file in (self.raw / folder).glob(f"*{ending}")})


@dataclass(frozen=True)
class Job:
    """One command, what it may use, and the names of the jobs that must be finished before it.

    Attributes:
        name: the same in all studies that share the job's outputs.
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
    def record(self) -> Record:
        """Its lock and log."""
        return Record(nnunet_folder("nnUNet_results") / "studies" / "_jobs", self.name, self.exclusive)

    @property
    def exclusive(self) -> str:
        """What one job at a time may do, as jobs of this name do it."""
        return self.name

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
    def exclusive(self) -> str:
        """All plans of a data set share its fingerprint."""
        return f"preprocess__{self.dataset.name}"

    @property
    def plans_file(self) -> Path:
        """nnU-Net's plans."""
        return self.dataset.preprocessed / f"{self.plans}.json"

    def command(self) -> list[str]:
        """Returns nnU-Net's command for what is missing."""
        processes = str(self.resources.cpus)
        if _json(self.plans_file) is None:
            planner = _unless_default("-pl", PLANNERS[self.plans], PLANNERS[DEFAULT_PLANS])
            return [
                "nnUNetv2_plan_and_preprocess", "-d", self.dataset.number, *planner, "-c", *self.study.configurations,
                "-npfp", processes, "-np", processes,
            ]  # fmt: skip
        # nnU-Net empties the folder of a configuration first, from which others may be training.
        configurations = self.study.configurations
        missing = [name for name in configurations if self._cases_missing(name)] or configurations
        plans = _unless_default("-plans_name", self.plans, DEFAULT_PLANS)
        return ["nnUNetv2_preprocess", "-d", self.dataset.number, *plans, "-c", *missing, "-np", processes]

    def missing(self) -> str | None:
        """Returns which plans or preprocessed cases are not there."""
        if _json(self.plans_file) is None:
            return f"there are no plans at {self.plans_file}"
        return next(filter(None, map(self._cases_missing, self.study.configurations)), None)

    def _cases_missing(self, configuration: str) -> str | None:
        values = (_json(self.plans_file) or {})["configurations"]
        if configuration not in values:
            return f"{self.plans_file} has no configuration {configuration}; it has {', '.join(values)}"
        resolved, line = values[configuration], [configuration]
        while "data_identifier" not in resolved:
            parent = resolved.get("inherits_from")
            if parent not in values or parent in line:
                return (
                    f"configuration {configuration} of {self.plans_file} inherits from nothing that is there: {parent}"
                )
            resolved = values[parent]
            line.append(parent)
        folder = self.dataset.preprocessed / resolved["data_identifier"]
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
        command += _unless_default("-p", self.plans, DEFAULT_PLANS)
        command += _unless_default("-num_gpus", str(max(1, self.resources.gpus)), "1")
        command += _unless_default("-device", self.study.device, "cuda")
        if self.checkpoint.is_file():
            return [*command, "--val"]
        started = any((self.folder / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
        return [*command, "--c"] if started else command

    def prepare(self) -> None:
        """Makes nnU-Net's folds, which its first training would make: an array of them is many first trainings."""
        splits_file = self.dataset.preprocessed / "splits_final.json"
        cases = self.dataset.training_cases
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
class Predict(Job):
    """Predicts a part of the test cases with all folds of the study."""

    trainings: tuple[Train, ...]
    part: int
    parts: int

    @property
    def output(self) -> Path:
        """The folder of the predictions."""
        model = self.trainings[0].folder.parent.name
        return study_folder(self.study.name) / "predictions" / self.dataset.name / model

    @property
    def predictions(self) -> list[Path]:
        """The files of its cases."""
        cases = self.dataset.test_cases[self.part :: self.parts]
        return [self.output / f"{case}{self.dataset.description['file_ending']}" for case in cases]

    def command(self) -> list[str]:
        """Returns nnU-Net's prediction of the part."""
        first = self.trainings[0]
        command = [
            "nnUNetv2_predict", "-i", str(self.dataset.raw / "imagesTs"), "-o", str(self.output), "-d",
            self.dataset.number, "-c", first.configuration, "-f", *map(str, self.study.folds), "-tr", first.trainer,
        ]  # fmt: skip
        command += _unless_default("-p", first.plans, DEFAULT_PLANS)
        command += _unless_default("-device", self.study.device, "cuda")
        if self.parts > 1:
            command += ["-num_parts", str(self.parts), "-part_id", str(self.part)]
        return command

    def missing(self) -> str | None:
        """Returns which predictions are not there, or older than a network."""
        absent = [file for file in self.predictions if not file.is_file()]
        if absent:
            return f"{len(absent)} of {len(self.predictions)} predictions are not in {self.output}"
        if self.record.was_cut_short():
            return "the last attempt was cut short, which may have left half a file behind"
        return _out_of_date(self.predictions, [training.checkpoint for training in self.trainings])


@dataclass(frozen=True)
class Page(Job):
    """Writes a page, and the same for programs.

    Attributes:
        report: its file without .json and .html.
    """

    report: Path

    @property
    def inputs(self) -> list[Path]:
        """Files that are older than the page."""
        raise NotImplementedError

    @property
    def files(self) -> list[Path]:
        """What it writes: .json and .html."""
        return [Path(f"{self.report}.{kind}") for kind in ("json", "html")]

    def missing(self) -> str | None:
        """Returns whether the page is not there, of something else, or older than what it is made of."""
        written = _json(self.files[0])
        if written is None or not self.files[1].is_file():
            return f"there is no report at {self.files[1]}"
        return self._differs(written) or _out_of_date(self.files, self.inputs)

    def _differs(self, written: dict[str, Any]) -> str | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Compare(Page):
    """Compares the methods on one data set, on their validation or their test cases.

    Attributes:
        plans, configuration: of the networks.
        jobs: the trainings whose validation is compared, or the predictions of test cases.
    """

    plans: str
    configuration: str
    jobs: Sequence[Train] | Sequence[Predict]

    @property
    def cases(self) -> str:
        """Which cases are compared: "validation" or "test"."""
        return "test" if isinstance(self.jobs[0], Predict) else "validation"

    @property
    def inputs(self) -> list[Path]:
        """The summaries of validations, or the predictions."""
        return [file for job in self.jobs for file in (job.predictions if isinstance(job, Predict) else [job.summary])]

    def command(self) -> list[str]:
        """Returns the comparison."""
        raw = self.dataset.raw
        if predictions := [job for job in self.jobs if isinstance(job, Predict)]:
            folders = dict.fromkeys(f"{job.trainings[0].trainer}={job.output}" for job in predictions)
            arguments = ["--reference", str(raw / "labelsTs"), "-i", *folders]
            arguments += ["--dataset-json", str(raw / "dataset.json"), "--images", str(raw / "imagesTs")]
        else:
            runs = dict.fromkeys(job.trainer for job in self.jobs if isinstance(job, Train))
            arguments = ["-d", self.dataset.number, "-c", self.configuration, "-tr", *runs]
            arguments += ["-f", *map(str, self.study.folds), *_unless_default("-p", self.plans, DEFAULT_PLANS)]
        written = [word for file in self.files for word in (f"--{file.suffix[1:]}", str(file))]
        return ["nnUNetv2_salstm", "compare", *arguments, *written]

    def _differs(self, written: dict[str, Any]) -> str | None:
        command = written.get("inputs", {}).get("command")
        return None if command == shlex.join(self.command()) else f"{self.files[0]} is of another comparison: {command}"


@dataclass(frozen=True)
class Report(Page):
    """Puts all comparisons of a study on one page."""

    comparisons: tuple[Compare, ...]

    @property
    def inputs(self) -> list[Path]:
        """The comparisons."""
        return [comparison.files[0] for comparison in self.comparisons]

    def command(self) -> list[str]:
        """Returns the command of the report."""
        # A job of Slurm starts in another folder.
        return ["nnUNetv2_salstm", "study", str(self.study.file.resolve()), "--report"]

    def missing(self) -> str | None:
        """Returns whether a comparison is not there, or the report, or whether that is of other ones."""
        return next(filter(None, (comparison.missing() for comparison in self.comparisons)), None) or super().missing()

    def _differs(self, written: dict[str, Any]) -> str | None:
        if written.get("study", {}).get("text") != self.study.file.read_text():
            return f"{self.files[0]} is of another text of {self.study.file}"
        return f"{self.files[0]} lacks {', '.join(written['missing'])}" if written["missing"] else None


def study_folder(name: str) -> Path:
    """Returns where a study keeps its reports and predictions: below nnUNet_results, with those who share these.

    Raises:
        SalstmError: if nnU-Net's folder of results is not there.
    """
    return nnunet_folder("nnUNet_results") / "studies" / name


def jobs_of(study: Study) -> list[Job]:
    """Returns the jobs of a study, each behind those that must be finished before it.

    Raises:
        SalstmError: if a data set or nnU-Net's folders are not there.
    """
    jobs: list[Job] = []
    for name in study.datasets:
        dataset = Dataset.find(name)
        # One after the other, as plans of a data set share its fingerprint.
        before: tuple[str, ...] = ()
        for plans in study.plans:
            preprocess = Preprocess(f"preprocess__{dataset.name}__{plans}", study, dataset, before, plans)
            before = (preprocess.name,)
            jobs.append(preprocess)
            for configuration in study.configurations:
                jobs += _jobs_of_models(study, dataset, plans, configuration, before)
    if comparisons := tuple(job for job in jobs if isinstance(job, Compare)):
        after = tuple(job.name for job in comparisons)
        page = study_folder(study.name) / "report"
        jobs.append(Report(f"report__{study.name}", study, comparisons[0].dataset, after, page, comparisons))
    return jobs


def _jobs_of_models(
    study: Study, dataset: Dataset, plans: str, configuration: str, preprocess: tuple[str, ...]
) -> list[Job]:
    """Returns trainings, predictions and comparisons on one data set with one configuration."""
    trainings: list[Train] = []
    predictions: list[Predict] = []
    parts = min(study.num_parts, len(dataset.test_cases)) if study.test else 0
    for run in [run for method in study.trainers for run in study.runs_of(method)]:
        model = f"{dataset.name}__{model_name(run, plans, configuration)}"
        folds = tuple(
            Train(f"train__{model}__fold_{fold}", study, dataset, preprocess, run, plans, configuration, fold)
            for fold in study.folds
        )
        trainings += folds
        after = tuple(job.name for job in folds)
        predictions += [
            Predict(
                f"predict__{study.name}__{model}__part_{part}_of_{parts}", study, dataset, after, folds, part, parts
            )
            for part in range(parts)
        ]
    jobs: list[Job] = [*trainings, *predictions]
    if len(study.trainers) > 1:
        compared: list[tuple[str, Sequence[Train] | Sequence[Predict]]] = [("", trainings)]
        if predictions and (dataset.raw / "labelsTs").is_dir():
            compared.append(("__test", predictions))
        for what, of in compared:
            name, after = f"{dataset.name}__{plans}__{configuration}{what}", tuple(job.name for job in of)
            page = study_folder(study.name) / "comparisons" / name
            jobs.append(
                Compare(f"compare__{study.name}__{name}", study, dataset, after, page, plans, configuration, of)
            )
    return jobs


def unfinished(jobs: Sequence[Job]) -> dict[str, str]:
    """Returns why jobs are not finished, by name: their outputs, or those of a job before them, are not there.

    A preprocessing that nothing unfinished needs is not among them: preprocessed data may be removed after training.
    """
    reasons: dict[str, str] = {}
    for job in jobs:
        reason = job.missing()
        # A training stays finished, however new its plans and preprocessed data are.
        before = [] if isinstance(job, Preprocess | Train) else [name for name in job.after if name in reasons]
        if reason is not None or before:
            reasons[job.name] = reason or f"{before[0]} is not finished"
    for job in reversed(jobs):
        users = [other.name for other in jobs if job.name in other.after]
        if isinstance(job, Preprocess) and users and not any(name in reasons for name in users):
            reasons.pop(job.name, None)
    return reasons


def model_name(trainer: str, plans: str, configuration: str) -> str:
    """Returns how nnU-Net calls the folder of a model."""
    return f"{trainer}__{plans}__{configuration}"


def _out_of_date(outputs: Sequence[Path], inputs: Sequence[Path]) -> str | None:
    """Returns which output is older than an input, or which input is not there, None if neither."""
    for file in inputs:
        if not file.is_file():
            return f"there is no {file}"
        for output in outputs:
            if output.stat().st_mtime < file.stat().st_mtime:
                return f"{output} is older than {file}"
    return None


def _unless_default(option: str, value: str, default: str) -> list[str]:
    return [] if value == default else [option, value]


def _json(file: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if it is not there or was left half-written."""
    try:
        values = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None
