"""Runs a comparison from the command line's arguments: finds the runs, scores them, prints and writes the report."""

import argparse
import csv
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunetv2_salstm.evaluation.confounders import differences
from nnunetv2_salstm.evaluation.cost import cost_of
from nnunetv2_salstm.evaluation.metrics import Labels
from nnunetv2_salstm.evaluation.results import Results, ScoredCase
from nnunetv2_salstm.evaluation.runs import Run, arms_of, read_json, runs_of_folders, runs_of_trainers, short_names
from nnunetv2_salstm.evaluation.scoring import Case, Scoring, default_cache, score_cases
from nnunetv2_salstm.host.datasets import find_dataset
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.host.versions import package_versions
from nnunetv2_salstm.reporting.comparison import Report
from nnunetv2_salstm.reporting.comparison_page import to_html
from nnunetv2_salstm.reporting.gallery import Example, draw_gallery

DEFAULT_PROCESSES = 8


def run_compare(arguments: argparse.Namespace) -> None:
    """Compares, prints the report and writes the files asked for.

    Raises:
        SalstmError: for results that are missing or do not fit together; at the end also if a file could not be scored.
    """
    if importlib.util.find_spec("monai") is None:
        raise SalstmError('the surface metrics are MONAI\'s; install it with: pip install "nnunetv2-salstm[compare]"')
    if arguments.dataset is not None:
        if arguments.reference is not None or arguments.predictions:
            raise SalstmError("give either a data set with --trainers, or --reference with --predictions, not both")
        task = _task_of_trainers(arguments)
    else:
        task = _task_of_folders(arguments)
    report, gallery = _compare(arguments, task)
    print(report.to_markdown())
    writers = (
        (arguments.json, report.to_json),
        (arguments.csv, report.to_csv),
        (arguments.html, lambda: to_html(report, gallery)),
    )
    for file, text in writers:
        if file is not None:
            try:
                with written_whole(file) as unfinished:
                    unfinished.write_text(text())
            except OSError as error:
                raise SalstmError(f"{file} cannot be written: {error}") from None
            print(f"Written: {file}")
    if report.failures:
        raise SalstmError(f"{len(report.failures)} predictions could not be scored, the first: {report.failures[0]}")


@dataclass(frozen=True)
class _Task:
    """What is compared: runs, the folder of references, nnU-Net's dataset.json, and where images are, by case."""

    title: str
    runs: list[Run]
    references: Path
    dataset_json: dict[str, Any]
    configuration: str | None
    images: dict[str, Path]


def _task_of_trainers(arguments: argparse.Namespace) -> _Task:
    if not arguments.configuration:
        raise SalstmError("a data set needs the configuration too; add for example: -c 3d_fullres")
    if not arguments.trainers or len(arguments.trainers) < 2:
        raise SalstmError("--trainers must name at least two, the first of which the others are compared with")
    results = find_dataset("nnUNet_results", arguments.dataset)
    runs = runs_of_trainers(
        results.parent, results.name, arguments.configuration, arguments.plans_name, arguments.trainers, arguments.folds
    )
    references = find_dataset("nnUNet_preprocessed", results.name) / "gt_segmentations"
    model = results / f"{runs[0].name}__{arguments.plans_name}__{arguments.configuration}"
    dataset_json = _read_dataset_json(model / "dataset.json")
    title = f"{results.name}, {arguments.configuration}: {_versus(runs)}"
    images = _raw_images(results.name, dataset_json) if arguments.html else {}
    return _Task(title, runs, references, dataset_json, arguments.configuration, images)


def _task_of_folders(arguments: argparse.Namespace) -> _Task:
    if arguments.reference is None or not arguments.predictions:
        raise SalstmError(
            "give a data set, as in: compare 027 -c 3d_fullres --trainers FIRST SECOND; "
            "or --reference LABELS with --predictions NAME=DIR NAME=DIR"
        )
    named = {}
    for text in arguments.predictions:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder or name in named:
            raise SalstmError(f"--predictions must be NAME=DIR, each name once, got {text!r}")
        named[name] = Path(folder)
    if len(named) < 2:
        raise SalstmError(
            "--predictions must name at least two folders, the first of which the others are compared with"
        )
    if not arguments.reference.is_dir():
        raise SalstmError(f"--reference {arguments.reference}: there is no such folder")
    runs = runs_of_folders(named)
    # nnU-Net leaves one with its predictions, and next to the reference in a raw data set.
    candidates = [*(folder / "dataset.json" for folder in named.values()), arguments.reference.parent / "dataset.json"]
    if arguments.dataset_json is not None:
        candidates = [arguments.dataset_json]
    found = [file for file in candidates if file.is_file()]
    if not found:
        raise SalstmError(
            "which labels there are is not known, as none of the folders has a dataset.json; "
            "give nnU-Net's with --dataset-json"
        )
    title = _versus(runs)
    dataset_json = _read_dataset_json(found[0])
    images = {} if arguments.images is None else _images_in(arguments.images, dataset_json["file_ending"])
    return _Task(title, runs, arguments.reference, dataset_json, None, images)


def _compare(arguments: argparse.Namespace, task: _Task) -> tuple[Report, list[Example]]:
    runs, references, dataset_json = task.runs, task.references, task.dataset_json
    ending = dataset_json["file_ending"]
    labels = Labels.of_dataset(dataset_json)
    if not labels.values:
        raise SalstmError("dataset.json has no label but the background; there is nothing to compare")
    scoring = Scoring(labels, _tolerances(arguments.tolerance, labels), _reader(dataset_json, references, ending))
    where, left_out = _cases_of(runs, references, ending, arguments.common_only)
    # Before the long work, as a mistake in them should show at once.
    groups = {} if arguments.groups is None else _groups(arguments.groups, {case.name for *_, case in where})
    arms = arms_of(runs)
    if len(arms) < 2:
        raise SalstmError(
            f"only the seeds differ: all runs are of {arms[0].name}; name another trainer to compare with"
        )
    unlike = [*left_out, *differences(arms, task.configuration)]
    cost = cost_of(arms, arguments.bench)
    processes = arguments.processes or min(DEFAULT_PROCESSES, os.cpu_count() or 1)
    scores, failures = score_cases([case for *_, case in where], scoring, processes, arguments.cache or default_cache())
    failed = {failure.case.name for failure in failures}
    arm_of = {run.name: arm.name for arm in arms for run in arm.runs}
    scored = [
        # A case that one arm lacks would make the comparison unpaired.
        ScoredCase(arm_of[run.name], run.name, fold, case.name, scores[case])
        for run, fold, case in where
        if case.name not in failed
    ]
    if not scored:
        raise SalstmError(f"no case could be scored: {failures[0]}")
    results = Results(arms, list(labels.values), scored, groups)
    inputs = {
        "command": shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
        "reference": _shown(references),
        "runs": {run.name: {str(fold): _shown(folder) for fold, folder in run.predictions.items()} for run in runs},
        "labels": {name: list(values) for name, values in labels.values.items()},
        "ignored_label": labels.ignore,
        "tolerances": scoring.tolerances,
        "reader": scoring.reader,
    }
    versions = {**package_versions(), **{name: version(name) for name in ("monai", "scipy")}}
    gallery: list[Example] = []
    if arguments.html is not None:
        files = {(run.name, case.name): case for run, _, case in where}
        gallery = draw_gallery(results, files, task.images, scoring)
    return Report(task.title, inputs, results, unlike, cost, [str(failure) for failure in failures], versions), gallery


def _cases_of(
    runs: Sequence[Run], references: Path, ending: str, common_only: bool
) -> tuple[list[tuple[Run, int | str | None, Case]], list[str]]:
    """Returns every prediction with its run and fold, and a sentence for each run in which others lack cases.

    Raises:
        SalstmError: naming the cases that some run lacks (unless only common ones are wanted), or have no reference.
    """
    found: dict[str, dict[str, tuple[Run, int | str | None, Case]]] = {}
    for run in runs:
        found[run.name] = {
            file.name.removesuffix(ending): (
                run,
                fold,
                Case(file.name.removesuffix(ending), references / file.name, file),
            )
            for fold, folder in run.predictions.items()
            for file in sorted(folder.glob(f"*{ending}"))
        }
        if not found[run.name]:
            raise SalstmError(f"{run.name} has no predictions (*{ending}) in {_text(run.predictions.values())}")
    names = sorted({name for cases in found.values() for name in cases})
    missing = {run: [name for name in names if name not in cases] for run, cases in found.items()}
    common = [name for name in names if all(name in cases for cases in found.values())]
    if not common:
        raise SalstmError(
            "the runs have no case in common: "
            + "; ".join(f"{run} has for example {next(iter(cases))}" for run, cases in found.items())
        )
    lacking = [f"{run} lacks {_text(cases)}" for run, cases in missing.items() if cases]
    if lacking and not common_only:
        raise SalstmError(f"{'; '.join(lacking)}. To compare on the {len(common)} common cases, add --common-only")
    unknown = [name for name in common if not (references / f"{name}{ending}").is_file()]
    if unknown:
        raise SalstmError(
            f"{references} has no reference for {_text(unknown)}; are these the predictions of another data set?"
        )
    folds = [{name: cases[name][1] for name in common} for cases in found.values()]
    if any(fold != folds[0] for fold in folds):
        lacking.append("The splits differ: cases are in other folds")
    return [cases[name] for cases in found.values() for name in common], [f"{sentence}." for sentence in lacking]


def _tolerances(texts: Iterable[str], labels: Labels) -> dict[str, float]:
    """Returns the tolerance of each label from MM or LABEL=MM."""
    default, special = 2.0, {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf") or (separator and name not in labels.values):
            raise SalstmError(
                f"--tolerance must be MM or LABEL=MM, with a positive number and one of {', '.join(labels.values)}, "
                f"got {text!r}"
            )
        if separator:
            special[name] = value
        else:
            default = value
    return {name: special.get(name, default) for name in labels.values}


def _groups(file: Path, cases: set[str]) -> dict[str, str]:
    """Returns the group of each case from a CSV file with the columns case and group."""
    try:
        with file.open(newline="") as text:
            rows = list(csv.DictReader(text))
        groups = {row["case"]: row["group"] for row in rows}
    except OSError as error:
        raise SalstmError(f"--groups {file} cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise SalstmError(f"--groups {file} must have the columns case and group, it lacks {error}") from None
    lacking = sorted(cases - groups.keys())
    if lacking:
        raise SalstmError(f"--groups {file} must name the group of every case, it lacks {_text(lacking)}")
    return groups


def _reader(dataset_json: Mapping[str, Any], references: Path, ending: str) -> str:
    """Returns the name of the class that nnU-Net reads this data set with."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    example = next(iter(sorted(references.glob(f"*{ending}"))), None)
    if example is None:
        raise SalstmError(f"{references} has no files *{ending}")
    return determine_reader_writer_from_dataset_json(dict(dataset_json), str(example), verbose=False).__name__


def _raw_images(dataset: str, dataset_json: Mapping[str, Any]) -> dict[str, Path]:
    """Returns the first channel's image of each raw training case, {} where the raw data are not there any more."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    try:
        folder = find_dataset("nnUNet_raw", dataset)
        found = get_filenames_of_train_images_and_targets(str(folder), dict(dataset_json))
    except (SalstmError, OSError) as error:
        print(f"The page will show no images: {error}")
        return {}
    return {case: Path(files["images"][0]) for case, files in found.items()}


def _images_in(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the images in a folder, named as nnU-Net names its inputs (CASE_0000) or as the case.

    Raises:
        SalstmError: if there are none.
    """
    files = sorted(folder.glob(f"*{ending}"))
    if not files:
        raise SalstmError(f"--images {folder} has no files *{ending}")
    named = {file.name.removesuffix(ending): file for file in files}
    return {**named, **{name.removesuffix("_0000"): file for name, file in named.items() if name.endswith("_0000")}}


def _read_dataset_json(file: Path) -> dict[str, Any]:
    values = read_json(file)
    missing = [key for key in ("labels", "file_ending") if key not in values]
    if missing:
        raise SalstmError(f"{file} is no dataset.json of nnU-Net: it lacks {', '.join(missing)}")
    return values


def _versus(runs: Sequence[Run]) -> str:
    baseline, *others = short_names(arms_of(runs)).values()
    return f"{', '.join(others)} against {baseline}"


def _shown(path: Path) -> str:
    """Returns the path with nnU-Net's variable in place of its value, so that a report tells nothing of the machine."""
    for variable in ("nnUNet_results", "nnUNet_preprocessed"):
        value = os.environ.get(variable)
        if value and path.is_relative_to(value):
            return str(variable / path.relative_to(value))
    return str(path)


def _text(items: Iterable[Any], most: int = 5) -> str:
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
