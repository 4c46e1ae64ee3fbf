"""The study file: what is trained, on what, how long and how often, and what a task may use."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError

# The length of nnU-Net's own training where a trainer's name says none.
DEFAULT_EPOCHS = 1000
DEVICES = ("cuda", "cpu", "mps")
_SUFFIXES = re.compile(r"(?:_(?P<epochs>[1-9]\d*)epochs)?(?:_(?P<iterations>[1-9]\d*)its)?(?:_seed(?P<seed>\d+))?$")


@dataclass(frozen=True)
class Resources:
    """What one task of a kind may use; Slurm is asked for it.

    Attributes:
        gpus: of one machine; a training on several is nnU-Net's DDP.
        cpus: cores.
        memory_gb: main memory.
        hours: wall time, after which a task is stopped and continued in a new job.
    """

    gpus: int = 0
    cpus: int = 8
    memory_gb: int = 32
    hours: float = 12


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
    """Where Slurm runs the tasks.

    Attributes:
        partition, account, qos, constraint: sbatch's options of these names.
        parallel: how many tasks of an array run at once.
        options: other options of sbatch, e.g. {"mail-type": "FAIL"}.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    parallel: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)


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
        resources: by kind of task.
        slurm: where Slurm runs the tasks.
    """

    file: Path
    name: str
    datasets: tuple[str, ...]
    configurations: tuple[str, ...]
    plans: tuple[str, ...] = ("nnUNetPlans",)
    folds: tuple[int | str, ...] = (0, 1, 2, 3, 4)
    trainers: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    iterations: int | None = None
    different_epochs: bool = False
    test: bool = True
    num_parts: int = 1
    device: str = "cuda"
    resources: Mapping[str, Resources] = field(default_factory=dict)
    slurm: Slurm = field(default_factory=Slurm)

    def runs_of(self, trainer: str) -> list[str]:
        """Returns the trainer's names with length and seed, one for each seed."""
        stem, own = split_trainer(trainer)
        epochs, iterations = own["epochs"] or self.epochs, own["iterations"] or self.iterations
        length = (f"_{epochs}epochs" if epochs else "") + (f"_{iterations}its" if iterations else "")
        seeds = [own["seed"]] if own["seed"] is not None else self.seeds
        return [f"{stem}{length}_seed{seed}" for seed in seeds] or [stem + length]


def split_trainer(name: str) -> tuple[str, dict[str, int | None]]:
    """Returns a trainer's name without its suffixes, and epochs, iterations and seed, None where it has none."""
    match = _SUFFIXES.search(name)
    assert match is not None  # it also matches nothing
    return name[: match.start()], {key: int(value) if value else None for key, value in match.groupdict().items()}


def epochs_of(trainer: str) -> int:
    """Returns how many epochs a trainer trains, as far as its name says."""
    return split_trainer(trainer)[1]["epochs"] or DEFAULT_EPOCHS


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
    return _Reader(file, {key.value: key.start_mark.line + 1 for key, _ in node.value}).study(values, node)


class _Reader:
    """Checks the values of a file; knows the lines of its keys."""

    def __init__(self, file: Path, lines: dict[str, int]):
        self.file, self.lines = file, lines

    def fail(self, key: str, message: str) -> SalstmError:
        line = self.lines.get(key)
        return SalstmError(f"{self.file}{f', line {line}' if line else ''}: {message}")

    def study(self, values: dict[str, Any], node: Any) -> Study:
        self.keys(values, [f.name for f in fields(Study) if f.name != "file"])
        twice = [key.value for place, (key, _) in enumerate(node.value) if key.value in _names(node.value[:place])]
        if twice:
            raise self.fail(twice[0], f"{twice[0]} is given twice")
        for key in ("name", "datasets", "configurations", "trainers"):
            if key not in values:
                raise self.fail(
                    key, f"the key {key} is missing; a study needs name, datasets, configurations, trainers"
                )
        read: dict[str, Any] = {
            "name": self.is_a(values, "name", _is_name, "letters, digits, _ and -"),
            "datasets": tuple(
                str(d) for d in self.list_of(values, "datasets", _is_dataset, "numbers or names of data sets")
            ),
            "configurations": self.list_of(values, "configurations", _is_name, "names such as 3d_fullres"),
            "trainers": self.list_of(values, "trainers", _is_name, "names of trainers"),
        }
        for key, allowed, rule in (
            ("plans", _is_name, "names of plans"),
            ("folds", lambda v: v == "all" or _at_least(0)(v), "numbers, or all"),
        ):
            if key in values:
                read[key] = self.list_of(values, key, allowed, rule)
        if "seeds" in values:
            read["seeds"] = self.list_of(values, "seeds", _at_least(0), "whole numbers of at least 0")
        for key in ("epochs", "iterations", "num_parts"):
            if key in values:
                read[key] = self.is_a(values, key, _at_least(1), "a whole number of at least 1")
        for key in ("different_epochs", "test"):
            if key in values:
                read[key] = self.is_a(values, key, lambda v: isinstance(v, bool), "true or false")
        read["device"] = self.is_a({"device": "cuda", **values}, "device", lambda v: v in DEVICES, ", ".join(DEVICES))
        read["resources"] = self.resources(values.get("resources", {}), read["device"])
        if "slurm" in values:
            read["slurm"] = self.slurm(values["slurm"])
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

    def is_a(self, values: Mapping[str, Any], key: str, allowed: Callable[[Any], bool], rule: str, of: str = "") -> Any:
        if not allowed(values[key]):
            raise self.fail(of or key, f"{f'{of}: ' if of else ''}{key} must be {rule}, got {values[key]!r}")
        return values[key]

    def list_of(self, values: dict[str, Any], key: str, allowed: Callable[[Any], bool], rule: str) -> tuple[Any, ...]:
        given = values[key] if isinstance(values[key], list) else [values[key]]
        if not given or not all(map(allowed, given)):
            raise self.fail(key, f"{key} must be a list of {rule}, got {values[key]!r}")
        twice = {str(v) for v in given if [str(g) for g in given].count(str(v)) > 1}
        if twice:
            raise self.fail(key, f"{key} names {', '.join(sorted(twice))} twice")
        return tuple(given)

    def resources(self, values: Any, device: str) -> dict[str, Resources]:
        self.keys(values, KINDS, "resources")
        read = {}
        for kind, default in _ON_GPU.items():
            given = {} if values.get(kind) is None else values[kind]
            where = f"resources: {kind}"
            self.lines[where] = self.lines.get("resources", 0)
            self.keys(given, [f.name for f in fields(Resources) if default.gpus or f.name != "gpus"], where)
            for key in given:
                if key == "hours":
                    self.is_a(given, key, lambda v: _is_number(v) and v > 0, "a positive number", where)
                else:
                    least = 1 if key != "gpus" or device == "cuda" else 0
                    self.is_a(given, key, _at_least(least), f"a whole number of at least {least}", where)
            gpus = given.get("gpus", default.gpus if device == "cuda" else 0)
            if gpus > 0 and device != "cuda":
                raise self.fail("resources", f"{where}: gpus must be 0 with device {device}, got {gpus}")
            if gpus > 1 and kind != "train":
                raise self.fail("resources", f"{where}: gpus must be 1, as nnU-Net predicts on one, got {gpus}")
            read[kind] = Resources(
                gpus,
                given.get("cpus", default.cpus),
                given.get("memory_gb", default.memory_gb),
                given.get("hours", default.hours),
            )
        return read

    def slurm(self, values: Any) -> Slurm:
        self.keys(values, [f.name for f in fields(Slurm)], "slurm")
        for key in values:
            if key == "parallel":
                self.is_a(values, key, _at_least(1), "a whole number of at least 1", "slurm")
            elif key == "options":
                self.is_a(
                    values, key, lambda v: isinstance(v, dict), "options of sbatch, such as mail-type: FAIL", "slurm"
                )
            else:
                self.is_a(values, key, lambda v: isinstance(v, str) and v != "", "a name", "slurm")
        return Slurm(**values)

    def check_lengths(self, study: Study) -> None:
        lengths = {trainer: epochs_of(study.runs_of(trainer)[0]) for trainer in study.trainers}
        if study.different_epochs:
            return
        for trainer in study.trainers:
            own = split_trainer(trainer)[1]["epochs"]
            if own and study.epochs and own != study.epochs:
                raise self.fail(
                    "trainers",
                    f"{trainer} says {own} epochs but the study {study.epochs}; make them equal, or state "
                    "different_epochs: true",
                )
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{trainer} {epochs}" for trainer, epochs in lengths.items())
            raise self.fail(
                "trainers",
                f"the arms would train for different numbers of epochs ({said}); give epochs, or state "
                "different_epochs: true",
            )


def _names(items: Iterable[tuple[Any, Any]]) -> list[str]:
    return [key.value for key, _ in items]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", value) is not None


def _is_dataset(value: Any) -> bool:
    return _at_least(1)(value) or (
        isinstance(value, str) and re.fullmatch(r"\d+|Dataset\d{3}_[\w-]+", value) is not None
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least
