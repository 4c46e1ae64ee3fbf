"""The study file: what is trained, on what, how long and how often, and what a job may use."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.trainer_names import TrainerName, epochs_of, name_of_run

DEVICES = ("cuda", "cpu", "mps")


@dataclass(frozen=True)
class Resources:
    """What one job of a kind may use; Slurm is asked for it.

    Attributes:
        gpus: of one machine; a training on several is nnU-Net's DDP.
        cpus: cores.
        memory_gb: main memory.
        hours: wall time, after which Slurm ends the job.
        partition, account, constraint: of Slurm, in place of those that hold for all jobs.
    """

    gpus: int = 0
    cpus: int = 8
    memory_gb: int = 32
    hours: float = 12
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None


_ON_GPU = {
    "preprocess": Resources(),
    "train": Resources(gpus=1, cpus=12, memory_gb=48, hours=48),
    "predict": Resources(gpus=1),
    "compare": Resources(),
    "report": Resources(cpus=1, memory_gb=4, hours=1),
}
KINDS = tuple(_ON_GPU)


@dataclass(frozen=True)
class Slurm:
    """Where Slurm runs the jobs.

    Attributes:
        partition, account, qos, constraint: sbatch's options of these names.
        parallel: how many jobs are in its queue at once.
        options: other options of sbatch, e.g. {"mail-type": "FAIL"}.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    parallel: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A trainer of a study.

    Attributes:
        trainer: its name as the study file has it.
        label: what readers call it, None for what its name says.
        epochs: its own length, None for the study's. A trainer of another package with one is run as it is: its name
            takes neither length nor seed.
    """

    trainer: str
    label: str | None = None
    epochs: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether its name follows this package's grammar, and so takes length and seed."""
        try:
            TrainerName.parse(self.trainer)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study file's values.

    Attributes:
        file: where they were read.
        name: of the study; its reports and predictions lie in a folder of this name.
        datasets: by number or name.
        configurations, plans, folds: every combination of them is trained.
        trainers: the first is the one that others are compared with.
        seeds: of each trainer; none for a single training without a seed.
        epochs, iterations: of every training, and training iterations an epoch; None for nnU-Net's own.
        different_epochs: the trainers' own lengths hold, though they differ.
        test: predict the cases in imagesTs, where a data set has any.
        num_parts: pieces in which they are predicted.
        device: cuda, cpu or mps.
        retries: how often a job that ended badly is started again within one launch.
        resources: by kind of job.
        slurm: where Slurm runs the jobs.
    """

    file: Path
    name: str
    datasets: tuple[str, ...]
    configurations: tuple[str, ...]
    plans: tuple[str, ...] = ("nnUNetPlans",)
    folds: tuple[int | str, ...] = (0, 1, 2, 3, 4)
    trainers: tuple[Method, ...]
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    iterations: int | None = None
    different_epochs: bool = False
    test: bool = True
    num_parts: int = 1
    device: str = "cuda"
    retries: int = 0
    resources: Mapping[str, Resources] = field(default_factory=dict)
    slurm: Slurm = field(default_factory=Slurm)

    def runs_of(self, method: Method) -> list[str]:
        """Returns the names under which nnU-Net trains a method, one for each seed."""
        if not method.is_ours:
            return [method.trainer]
        epochs = method.epochs or self.epochs
        seeds = self.seeds or (None,)
        names = [name_of_run(method.trainer, epochs, self.iterations, seed) for seed in seeds]
        return list(dict.fromkeys(names))

    def epochs_of(self, method: Method) -> int:
        """Returns how many epochs each training of a method has."""
        return method.epochs or epochs_of(self.runs_of(method)[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the known name nearest to a wrong one, nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def read_study(file: Path) -> Study:
    """Reads a study file.

    Raises:
        SalstmError: if it cannot be read, or a key or value in it is wrong.
    """
    import yaml

    try:
        text = file.read_text()
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise SalstmError(f"the study file {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SalstmError(f"the study file {file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SalstmError(f"the study file {file} must hold keys such as name and datasets, got {values!r}")
    marked = [key for key, _ in getattr(node, "value", [])]
    keys = [key.value for key in marked]
    reader = _Reader(file, {key.value: key.start_mark.line + 1 for key in marked})
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise reader.fail(twice, f"{twice} is given twice")
    return reader.study(values)


# A part of the study file.
_Part = TypeVar("_Part", Resources, Slurm, Method)


class _Reader:
    """Checks the values of a file; knows the lines of its keys."""

    def __init__(self, file: Path, lines: dict[str, int]):
        self.file, self.lines = file, lines

    def fail(self, key: str, message: str) -> SalstmError:
        # "resources: train" stands somewhere below "resources".
        line = self.lines.get(key.partition(":")[0])
        return SalstmError(f"{self.file}{f', line {line}' if line else ''}: {message}")

    def study(self, values: dict[str, Any]) -> Study:
        self.keys(values, [f.name for f in fields(Study) if f.name != "file"])
        needed = ("name", "datasets", "configurations", "trainers")
        for key in needed:
            if key not in values:
                raise self.fail(key, f"the key {key} is missing; a study needs {', '.join(needed)}")
        read: dict[str, Any] = {k: self.list_of(value, k, *_LISTS[k]) for k, value in values.items() if k in _LISTS}
        read |= {key: self.value(values, key) for key in values if key in _RULES}
        read["datasets"] = tuple(map(str, read["datasets"]))
        read["trainers"] = self.trainers(values["trainers"])
        read["resources"] = self.resources(values.get("resources", {}), values.get("device", "cuda"))
        if "slurm" in values:
            read["slurm"] = self.part(values["slurm"], Slurm, "slurm")
        study = Study(file=self.file, **read)
        self.check_lengths(study)
        return study

    def keys(self, values: Any, known: Iterable[str], where: str = "") -> None:
        if not isinstance(values, dict):
            raise self.fail(where, f"{where} must hold the keys {', '.join(known)}, got {values!r}")
        for key in values:
            if key not in known:
                of = f" of {where}" if where else ""
                raise self.fail(
                    where or str(key), f"unknown key {key!r}{of}{nearest(str(key), known)}; it takes {', '.join(known)}"
                )

    def value(self, values: Mapping[str, Any], key: str, where: str = "") -> Any:
        allowed, rule = _RULES[key]
        if not allowed(values[key]):
            raise self.fail(where or key, f"{f'{where}: ' if where else ''}{key} must be {rule}, got {values[key]!r}")
        return values[key]

    def list_of(self, value: Any, key: str, allowed: Callable[[Any], bool], rule: str) -> tuple[Any, ...]:
        given = value if isinstance(value, list) else [value]
        if not given or not all(map(allowed, given)):
            raise self.fail(key, f"{key} must be a list of {rule}, got {value!r}")
        names = [str(item) for item in given]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise self.fail(key, f"{key} names {', '.join(twice)} twice")
        return tuple(given)

    def part(self, values: Any, of: type[_Part], where: str, **defaults: Any) -> _Part:
        """Returns a part of the study file, with values of its own in place of the defaults."""
        self.keys(values, [f.name for f in fields(of)], where)
        return of(**{**defaults, **{key: self.value(values, key, where) for key in values}})

    def trainers(self, value: Any) -> tuple[Method, ...]:
        items = value if isinstance(value, list) else [value]
        methods = tuple(
            self.part(item if isinstance(item, dict) else {"trainer": item}, Method, "trainers", trainer=None)
            for item in items
        )
        self.list_of([method.trainer for method in methods], "trainers", _is_name, "names of trainers")
        if labels := [method.label for method in methods if method.label]:
            self.list_of(labels, "trainers", _is_text, "labels")
        return methods

    def resources(self, values: Any, device: str) -> dict[str, Resources]:
        self.keys(values, KINDS, "resources")
        read = {}
        for kind, default in _ON_GPU.items():
            where = f"resources: {kind}"
            given = {} if values.get(kind) is None else values[kind]
            needs = default.gpus > 0
            self.keys(given, [f.name for f in fields(Resources) if needs or f.name != "gpus"], where)
            on_device = vars(default) if device == "cuda" else {**vars(default), "gpus": 0}
            gpus = (found := self.part(given, Resources, where, **on_device)).gpus
            if device != "cuda" and gpus > 0:
                raise self.fail(where, f"{where}: gpus must be 0 with device {device}, got {gpus}")
            if device == "cuda" and needs and gpus == 0:
                raise self.fail(where, f"{where}: gpus must be at least 1 with device {device}, got {gpus}")
            if gpus > 1 and kind != "train":
                raise self.fail(where, f"{where}: gpus must be 1, as nnU-Net predicts on one, got {gpus}")
            read[kind] = found
        return read

    def check_lengths(self, study: Study) -> None:
        lengths = {"the study": study.epochs} if study.epochs else {}
        # Of another package's trainer only what the file or its name says is known, and `check_study` asks for that.
        lengths |= {m.trainer: study.epochs_of(m) for m in study.trainers if m.is_ours or m.epochs or not study.epochs}
        if len(set(lengths.values())) > 1 and not study.different_epochs:
            said = ", ".join(f"{name} {epochs}" for name, epochs in lengths.items())
            raise self.fail(
                "trainers",
                f"the methods would train for different numbers of epochs ({said}); make them equal, or state "
                "different_epochs: true",
            )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_dataset(value: Any) -> bool:
    return _at_least(1)(value) or (
        isinstance(value, str) and re.fullmatch(r"\d+|Dataset\d{3}_[\w-]+", value) is not None
    )


def _is_hours(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


_Rule = tuple[Callable[[Any], bool], str]
_FROM_0: _Rule = (_at_least(0), "a whole number of at least 0")
_FROM_1: _Rule = (_at_least(1), "a whole number of at least 1")
# Of keys of the study and of its parts, which mean the same wherever they stand.
_RULES: dict[str, _Rule] = {
    "name": (_is_name, "letters, digits, _ and -"),
    "trainer": (lambda value: True, "checked as a list"),
    "device": (lambda value: value in DEVICES, ", ".join(DEVICES)),
    "hours": (_is_hours, "a positive number"),
    "label": (_is_text, "what readers call it"),
    "options": (lambda value: isinstance(value, dict), "options of sbatch, such as mail-type: FAIL"),
    **dict.fromkeys(("different_epochs", "test"), (lambda value: isinstance(value, bool), "true or false")),
    **dict.fromkeys(("retries", "gpus"), _FROM_0),
    **dict.fromkeys(("epochs", "iterations", "num_parts", "cpus", "memory_gb", "parallel"), _FROM_1),
    **dict.fromkeys(("partition", "account", "constraint", "qos"), (_is_text, "a name")),
}
_LISTS: dict[str, _Rule] = {
    "datasets": (_is_dataset, "numbers or names of data sets"),
    "configurations": (_is_name, "names such as 3d_fullres"),
    "plans": (_is_name, "names of plans"),
    "folds": (lambda value: value == "all" or _at_least(0)(value), "numbers, or all"),
    "seeds": (_at_least(0), "whole numbers of at least 0"),
}
