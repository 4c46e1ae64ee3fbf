"""The study file: what is trained, on what, how long and how often, and what a job may use."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.trainer_names import TrainerName, epochs_of, name_of_run, split_seed

DEVICES = ("cuda", "cpu", "mps")


class Rule(NamedTuple):
    """What a value of the study file must be, itself or each in a list, and how errors say so."""

    allows: Callable[[Any], bool]
    text: str
    is_list: bool = False


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_dataset(value: Any) -> bool:
    return re.fullmatch(r"0*[1-9]\d*|Dataset\d{3}_[\w-]+", str(value)) is not None


def _is_hours(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


_FROM_0 = Rule(_at_least(0), "a whole number of at least 0")
_FROM_1 = Rule(_at_least(1), "a whole number of at least 1")
_NAME = Rule(_is_name, "letters, digits, _ and -")
_TEXT = Rule(_is_text, "a name")
_FLAG = Rule(lambda value: isinstance(value, bool), "true or false")


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

    gpus: Annotated[int, _FROM_0] = 0
    cpus: Annotated[int, _FROM_1] = 8
    memory_gb: Annotated[int, _FROM_1] = 32
    hours: Annotated[float, Rule(_is_hours, "a positive number")] = 12
    partition: Annotated[str | None, _TEXT] = None
    account: Annotated[str | None, _TEXT] = None
    constraint: Annotated[str | None, _TEXT] = None


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
        options: other options of sbatch, e.g. {"mail-type": "FAIL"}; of a flag the value is true.
    """

    partition: Annotated[str | None, _TEXT] = None
    account: Annotated[str | None, _TEXT] = None
    qos: Annotated[str | None, _TEXT] = None
    constraint: Annotated[str | None, _TEXT] = None
    parallel: Annotated[int, _FROM_1] = 256
    options: Annotated[
        Mapping[str, Any], Rule(lambda value: isinstance(value, dict), "options of sbatch, such as mail-type: FAIL")
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A trainer of a study.

    Attributes:
        trainer: its name as the study file has it.
        label: what readers call it, None for what its name says.
        epochs: its own length, None for the study's. A trainer of another package with one is run as it is: its name
            takes neither length nor seed.
    """

    # Checked as a list of all.
    trainer: Annotated[str, Rule(lambda value: True, "")]
    label: Annotated[str | None, Rule(_is_text, "what readers call it")] = None
    epochs: Annotated[int | None, _FROM_1] = None

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
    name: Annotated[str, _NAME]
    datasets: Annotated[tuple[str, ...], Rule(_is_dataset, "numbers or names of data sets", True)]
    configurations: Annotated[tuple[str, ...], Rule(_is_name, "names such as 3d_fullres", True)]
    plans: Annotated[tuple[str, ...], Rule(_is_name, "names of plans", True)] = ("nnUNetPlans",)
    folds: Annotated[
        tuple[int | str, ...], Rule(lambda value: value == "all" or _at_least(0)(value), "numbers, or all", True)
    ] = (0, 1, 2, 3, 4)
    trainers: tuple[Method, ...]
    seeds: Annotated[tuple[int, ...], Rule(_at_least(0), "whole numbers of at least 0", True)] = ()
    epochs: Annotated[int | None, _FROM_1] = None
    iterations: Annotated[int | None, _FROM_1] = None
    different_epochs: Annotated[bool, _FLAG] = False
    test: Annotated[bool, _FLAG] = True
    num_parts: Annotated[int, _FROM_1] = 1
    device: Annotated[str, Rule(lambda value: value in DEVICES, ", ".join(DEVICES))] = "cuda"
    retries: Annotated[int, _FROM_0] = 0
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
        text = file.read_text(encoding="utf-8-sig")
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise SalstmError(f"the study file {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SalstmError(f"the study file {file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SalstmError(f"the study file {file} must hold keys such as name and datasets, got {values!r}")
    lines: dict[str, int] = {}
    reader = _Reader(file, lines)

    def check(part: Any, of: str) -> None:
        """Refuses what YAML takes otherwise than it looks: of keys given twice the last, 010 as 8."""
        if isinstance(part, yaml.MappingNode):
            keys = [key.value for key, _ in part.value]
            if not of:
                lines.update({key.value: key.start_mark.line + 1 for key, _ in part.value})
            for key, value in part.value:
                if keys.count(key.value) > 1:
                    raise reader.fail(of or key.value, f"{key.value} is given twice")
                check(value, of or key.value)
        elif isinstance(part, yaml.SequenceNode):
            for item in part.value:
                check(item, of)
        elif part.tag == "tag:yaml.org,2002:int" and re.fullmatch(r"0\d+", part.value):
            raise reader.fail(of, f"{of} must have numbers without leading zeros; got {part.value}")

    check(node, "")
    return reader.study(values)


# A part of the study file.
_Part = TypeVar("_Part", Resources, Slurm, Method)


def _rules(of: type) -> dict[str, Rule]:
    hints = get_type_hints(of, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


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
        rules = _rules(Study)
        read = {key: self.value(value, rules[key], key) for key, value in values.items() if key in rules}
        read["datasets"] = tuple(map(str, read["datasets"]))
        read["trainers"] = self.trainers(values["trainers"])
        read["resources"] = self.resources(values.get("resources", {}), values.get("device", "cuda"))
        read["slurm"] = self.part(values.get("slurm", {}), Slurm, "slurm")
        study = Study(file=self.file, **read)
        runs = [run for method in study.trainers for run in study.runs_of(method)]
        self.value(runs, Rule(_is_name, "names of trainers", True), "trainers")
        self.check_lengths(study)
        first: dict[str, str] = {}
        for method in study.trainers:
            other = first.setdefault(split_seed(study.runs_of(method)[0])[0], method.trainer)
            if other != method.trainer:
                raise self.fail(
                    "trainers",
                    f"trainers has {other} and {method.trainer}, which differ in the seed alone; name it once, and the "
                    "seeds with seeds",
                )
        return study

    def keys(self, values: Any, known: Iterable[str], where: str = "") -> None:
        if not isinstance(values, dict):
            raise self.fail(where, f"{where} must hold the keys {', '.join(known)}, got {values!r}")
        if unknown := [str(key) for key in values if key not in known]:
            of = f" of {where}" if where else ""
            near = nearest(unknown[0], known)
            raise self.fail(where or unknown[0], f"unknown key {unknown[0]!r}{of}{near}; it takes {', '.join(known)}")

    def value(self, value: Any, rule: Rule, key: str, where: str = "") -> Any:
        items = value if rule.is_list and isinstance(value, list) else [value]
        if not items or not all(map(rule.allows, items)):
            must = f"{f'{where}: ' if where else ''}{key} must be {'a list of ' if rule.is_list else ''}{rule.text}"
            raise self.fail(where or key, f"{must}, got {value!r}")
        if not rule.is_list:
            return value
        names = [str(item) for item in items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise self.fail(key, f"{key} names {', '.join(twice)} twice")
        return tuple(items)

    def part(self, values: Any, of: type[_Part], where: str, **defaults: Any) -> _Part:
        """Returns a part of the study file, with values of its own in place of the defaults."""
        rules = _rules(of)
        self.keys(values, rules, where)
        return of(**{**defaults, **{key: self.value(value, rules[key], key, where) for key, value in values.items()}})

    def trainers(self, value: Any) -> tuple[Method, ...]:
        items = value if isinstance(value, list) else [value]
        methods = tuple(
            self.part(item if isinstance(item, dict) else {"trainer": item}, Method, "trainers", trainer=None)
            for item in items
        )
        self.value([m.trainer for m in methods], Rule(_is_name, "names of trainers", True), "trainers")
        if labels := [method.label for method in methods if method.label]:
            self.value(labels, Rule(_is_text, "labels", True), "trainers")
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
