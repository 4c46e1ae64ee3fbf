"""compare trainings or predictions case by case: verdicts, metrics, cost

Two questions, two answers: do these trained networks differ, over cases; and do the methods differ that made them,
over trainings with other seeds and folds? Results are those that nnU-Net leaves behind. The first trainer is the
baseline; runs that differ only in _seed<S> are one method.

    compare -d 27 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerSALSTM_A nnUNetTrainerSALSTM_B --html report.html
    compare --reference LABELS -i vanilla=DIR ours=DIR
"""

import argparse
import importlib.util
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.host.datasets import case_files
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import require_writable, write_text
from nnunetv2_salstm.host.processes import default_processes

if TYPE_CHECKING:
    from nnunetv2_salstm.evaluation.comparison import Comparison
    from nnunetv2_salstm.evaluation.examples import Example
    from nnunetv2_salstm.evaluation.metrics import Labels, Scores
    from nnunetv2_salstm.evaluation.results import Endpoint, Results
    from nnunetv2_salstm.evaluation.runs import Run
    from nnunetv2_salstm.evaluation.scoring import Case, Scoring
    from nnunetv2_salstm.evaluation.task import Task

METRICS = ("dice", "iou", "hd95", "nsd", "volume_error")
SURFACE = ("hd95", "nsd")
# In mm.
TOLERANCE = 2.0
MONAI = 'pip install "nnunetv2-salstm[compare]"'
# Of images that are no volumes, which say nothing of millimetres.
PIXELS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the comparison."""
    trainings = parser.add_argument_group("trainings")
    add_option(trainings, "-d")
    add_option(trainings, "-c")
    add_option(trainings, "-p")
    add_option(trainings, "-tr", many=True, help="the first is what others are compared with")
    add_option(trainings, "-f", many=True, help="default: all of the first trainer")
    trainings.add_argument(
        "--identity-test", action="store_true", help="also predict without the SA-LSTM blocks: what is lost then"
    )
    add_option(trainings, "-device", help="of --identity-test (%(default)s)")
    trainings.add_argument("--bench", type=Path, metavar="FILE", help="JSON of bench, for times and memory")
    folders = parser.add_argument_group("predictions of any method")
    folders.add_argument("-i", nargs="+", metavar="NAME=DIR", dest="predictions", help="the first is the baseline")
    folders.add_argument("--reference", type=Path, metavar="LABELS", help="folder of reference segmentations")
    folders.add_argument("--dataset-json", type=Path, metavar="FILE", help="nnU-Net's (default: found in the folders)")
    folders.add_argument(
        "--images", type=Path, metavar="DIR", help="of the cases, for --html (default: none are shown)"
    )
    question = parser.add_argument_group("what is asked")
    question.add_argument(
        "--primary",
        default="dice",
        metavar="METRIC[:LABEL]",
        help="endpoint of the verdicts (%(default)s), the mean over labels unless one is named",
    )
    question.add_argument(
        "--margin", type=float, help="differences within are equivalent (default: 0.005, of distances 0.5)"
    )
    question.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        metavar="METRIC",
        help=f"of {', '.join(METRICS)} (default: all; without MONAI those without surfaces)",
    )
    question.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="MM",
        help="of the surface Dice, for all labels or as LABEL=MM (default: 2)",
    )
    question.add_argument(
        "--groups", type=Path, metavar="CSV", help="columns case and group: the patient of each image, the unit then"
    )
    question.add_argument(
        "--subgroups", nargs="+", metavar=("CSV", "COLUMN"), help="column case and another, e.g. the diagnosis"
    )
    question.add_argument(
        "--published", type=Path, metavar="CSV", help="columns case and dice: somebody else's scores, to stand beside"
    )
    question.add_argument("--common-only", action="store_true", help="compare on the cases that all methods have")
    output = parser.add_argument_group("output")
    output.add_argument("--all", action="store_true", dest="everything", help="print the details too")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page with figures and a gallery of cases")
    output.add_argument("--json", type=Path, metavar="FILE", help="write everything for programs")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each training, case and label")
    output.add_argument("--latex", type=Path, metavar="FILE", help="write a table for a paper (booktabs)")
    add_option(output, "-np", help="processes that score cases (default: one a core, at most 8)")
    output.add_argument(
        "--cache", type=Path, metavar="DIR", help="where scores are kept (default: nnunetv2_salstm in the user's cache)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the comparison, prints its report and writes what was asked for.

    Raises:
        SalstmError: for results that are missing, unfinished or do not fit together, or files that cannot be read; at
            the end also if a file could not be scored.
    """
    from nnunetv2_salstm.commands.compare_report import report_of
    from nnunetv2_salstm.reporting.comparison import comparison_document, comparison_latex
    from nnunetv2_salstm.reporting.document import to_html, to_terminal

    require_writable([arguments.json, arguments.csv, arguments.latex, arguments.html])
    task = _task_of_trainers(arguments) if arguments.dataset is not None else _task_of_folders(arguments)
    comparison, methods, examples = _compare(arguments, task)
    found = report_of(comparison, methods, examples)
    print(to_terminal(comparison_document(found, arguments.everything, figures=False)))
    writers = (
        (arguments.json, comparison.to_json),
        (arguments.csv, comparison.to_csv),
        (arguments.latex, lambda: comparison_latex(found)),
        (arguments.html, lambda: to_html(comparison_document(found))),
    )
    for file, text in writers:
        if file is not None:
            write_text(file, text())
            print(f"Written: {file}")
    if not arguments.everything:
        print("Labels, other metrics, p-values, trainings: --all prints them, --html shows them on a page.")
    if comparison.failures:
        raise SalstmError(
            f"{len(comparison.failures)} predictions could not be scored, the first: {comparison.failures[0]}"
        )


def _task_of_trainers(arguments: argparse.Namespace) -> "Task":
    from nnunetv2_salstm.evaluation.task import task_of_trainers

    if arguments.identity_test:
        from nnunetv2_salstm.host.versions import require_device

        require_device(arguments.device)
    if arguments.reference is not None or arguments.predictions:
        raise SalstmError("give either a data set (-d) with -tr, or --reference with -i, not both")
    for option, value in {"--dataset-json": arguments.dataset_json, "--images": arguments.images}.items():
        if value is not None:
            raise SalstmError(f"{option} is for predictions in folders (-i), and -d knows its own; leave it out")
    if not arguments.configuration:
        raise SalstmError("a data set needs the configuration too; add for example: -c 3d_fullres")
    trainers = list(dict.fromkeys(arguments.trainers or ()))
    if len(trainers) < 2:
        raise SalstmError("-tr must name at least two trainers, the first of which the others are compared with")
    with_images = arguments.html is not None or arguments.identity_test
    return task_of_trainers(
        arguments.dataset, arguments.configuration, arguments.plans, trainers, arguments.folds, with_images
    )


def _task_of_folders(arguments: argparse.Namespace) -> "Task":
    from nnunetv2_salstm.evaluation.task import task_of_folders

    if arguments.identity_test:
        raise SalstmError("--identity-test needs trained networks: give their data set and trainers with -d and -tr")
    if arguments.reference is None or not arguments.predictions:
        raise SalstmError(
            "give a data set, as in: compare -d 27 -c 3d_fullres -tr FIRST SECOND; "
            "or --reference LABELS with -i NAME=DIR NAME=DIR"
        )
    for option, value in {"-c": arguments.configuration, "-tr": arguments.trainers, "-f": arguments.folds}.items():
        if value:
            raise SalstmError(
                f"{option} is of trainings, and -i gives folders; leave it out, or name a data set with -d"
            )
    named: dict[str, Path] = {}
    for text in arguments.predictions:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder or name in named:
            raise SalstmError(f"-i must be NAME=DIR, each name once, got {text!r}")
        named[name] = Path(folder)
    if len(named) < 2:
        raise SalstmError("-i must name at least two folders, the first of which the others are compared with")
    return task_of_folders(named, arguments.reference, arguments.dataset_json, arguments.images)


def _compare(arguments: argparse.Namespace, task: "Task") -> "tuple[Comparison, dict[str, list[Run]], list[Example]]":
    from importlib.metadata import version

    from nnunetv2_salstm.evaluation.comparison import Comparison
    from nnunetv2_salstm.evaluation.confounders import confounders, runs_table
    from nnunetv2_salstm.evaluation.cost import cost_of
    from nnunetv2_salstm.evaluation.examples import find_examples
    from nnunetv2_salstm.evaluation.identity_test import tested_cases, tests_of_methods
    from nnunetv2_salstm.evaluation.metrics import Labels
    from nnunetv2_salstm.evaluation.predictions import (
        find_predictions,
        read_case_table,
        read_published,
        require_equal_splits,
    )
    from nnunetv2_salstm.evaluation.results import MEAN
    from nnunetv2_salstm.evaluation.runs import methods_of
    from nnunetv2_salstm.evaluation.scoring import Scoring, default_cache, score_cases
    from nnunetv2_salstm.host.versions import package_versions

    labels = Labels.of_dataset(task.dataset_json)
    if not labels.values:
        raise SalstmError("dataset.json has no label but the background; there is nothing to compare")
    if MEAN in labels.values:
        raise SalstmError(f"a label of dataset.json is called {MEAN}, which is what compare calls the mean over labels")
    # All arguments before the long work, as a mistake in them should show at once.
    metrics, without = _metrics(arguments)
    endpoint = _endpoint(arguments, labels)
    tolerances = _tolerances(arguments.tolerance, labels)
    scoring = Scoring(labels, tolerances if any(m in SURFACE for m in metrics) else None, task.reader())
    found, unlike = find_predictions(task.runs, task.references, task.file_ending, arguments.common_only)
    names = list(dict.fromkeys(case.name for case in found))
    if arguments.identity_test:
        tested_cases(task, found)
    groups = {} if arguments.groups is None else read_case_table(arguments.groups, "--groups", "group", names)
    subgroups = _subgroups(arguments.subgroups, names)
    published, sentence = ({}, "") if arguments.published is None else read_published(arguments.published, names)
    methods = methods_of(task.runs)
    require_equal_splits(methods, found)
    unlike += [*confounders(methods, task.configuration), *without, *([sentence] if sentence else [])]
    cost = cost_of(methods, arguments.bench)
    processes = arguments.processes or default_processes()
    scores, failures = score_cases(found, scoring, processes, arguments.cache or default_cache())
    # A case that one method lacks would make the comparison unpaired.
    failed = {case.name for case in failures}
    scored = [case for case in found if case.name not in failed]
    if not scored:
        raise SalstmError(f"no case could be scored: {next(iter(failures.values()))}")
    results = _results(task, methods, found, {case: scores[case] for case in scored}, groups, metrics)
    baseline, *others = results.short.values()
    packages = ("scipy", "pandas", *(["monai"] if scoring.tolerances is not None else []))
    comparison = Comparison(
        f"{task.place}{', '.join(others)} against {baseline}",
        _inputs(task, scoring),
        {method: [run.name for run in runs] for method, runs in methods.items()},
        results,
        endpoint,
        unlike,
        cost,
        list(failures.values()),
        {**package_versions(), **{name: version(name) for name in packages}},
        runs_table(run for runs in methods.values() for run in runs),
        subgroups,
        published,
        tests_of_methods(task, methods, scored, arguments.device) if arguments.identity_test else {},
    )
    examples: list[Example] = []
    if arguments.html is not None and "dice" in metrics:
        files = {(case.run, case.name): case for case in found}
        first_runs = {method: runs[0].name for method, runs in methods.items()}
        examples = find_examples(
            results, first_runs, files, {case: images[0] for case, images in task.images.items()}, scoring
        )
    return comparison, methods, examples


def _results(
    task: "Task",
    methods: "Mapping[str, Sequence[Run]]",
    found: "Sequence[Case]",
    scores: "Mapping[Case, dict[str, Scores]]",
    groups: Mapping[str, str],
    metrics: Sequence[str],
) -> "Results":
    from nnunetv2_salstm.evaluation.metrics import Labels
    from nnunetv2_salstm.evaluation.results import Results, ScoredCase, results_table
    from nnunetv2_salstm.evaluation.runs import overlap_of
    from nnunetv2_salstm.evaluation.verdicts import FIVE_FOLDS
    from nnunetv2_salstm.host.trainer_names import are_one_method, split_seed

    method_of = {run.name: (method, run.seed) for method, runs in methods.items() for run in runs}
    rows = (
        ScoredCase(*method_of[case.run], "" if case.fold is None else str(case.fold), case.name, values)
        for case, values in scores.items()
    )
    table = results_table(rows, groups, metrics)
    of_fold = Counter(case.fold for case in found if case.run == task.runs[0].name)
    overlap = overlap_of(task.runs, of_fold, len(case_files(task.references, task.file_ending))) or FIVE_FOLDS
    first, *rest = methods
    same = [method for method in rest if are_one_method(split_seed(method)[0], split_seed(first)[0])]
    return Results(
        table, list(methods), list(Labels.of_dataset(task.dataset_json).values), list(metrics), same, overlap
    )


def _inputs(task: "Task", scoring: "Scoring") -> dict[str, Any]:
    labels = scoring.labels
    return {
        "command": shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
        "reference": _portable(task.references),
        "runs": {
            run.name: {str(fold): _portable(folder) for fold, folder in run.predictions.items()} for run in task.runs
        },
        "labels": {name: list(values) for name, values in labels.values.items()},
        "ignored_label": labels.ignore,
        "tolerances": scoring.tolerances or {},
        "reader": scoring.reader,
        "unit": "pixels" if task.file_ending.lower() in PIXELS else "mm",
    }


def _metrics(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Returns the metrics that are scored, and a sentence on those that MONAI would have to be there for."""
    asked = {*(arguments.metrics or ()), arguments.primary.partition(":")[0]}
    if arguments.published is not None:
        asked.add("dice")
    wanted = [name for name in METRICS if name in asked or not arguments.metrics]
    if importlib.util.find_spec("monai") is not None:
        return wanted, []
    if not asked.isdisjoint(SURFACE):
        raise SalstmError(f"the surface metrics {' and '.join(SURFACE)} are MONAI's; install it with: {MONAI}")
    left = [name for name in wanted if name not in SURFACE]
    sentence = f"HD95 and surface Dice are left out, as they are MONAI's, which is not installed: {MONAI}"
    return left, [sentence] if left != wanted else []


def _endpoint(arguments: argparse.Namespace, labels: "Labels") -> "Endpoint":
    from nnunetv2_salstm.evaluation.results import MEAN, Endpoint

    metric, _, label = arguments.primary.partition(":")
    if metric not in METRICS or (label and label not in (MEAN, *labels.values)):
        raise SalstmError(
            f"--primary must be METRIC or METRIC:LABEL, with one of {', '.join(METRICS)} and of "
            f"{', '.join(labels.values)}, got {arguments.primary!r}"
        )
    margin = arguments.margin if arguments.margin is not None else 0.5 if metric == "hd95" else 0.005
    if not 0 < margin < float("inf"):
        raise SalstmError(f"--margin must be a positive number, got {arguments.margin:g}")
    if label in ("", MEAN):
        label = MEAN if len(labels.values) > 1 else next(iter(labels.values))
    return Endpoint(metric, label, margin)


def _subgroups(texts: Sequence[str] | None, cases: Sequence[str]) -> dict[str, str]:
    from nnunetv2_salstm.evaluation.predictions import read_case_table

    if texts is None:
        return {}
    if len(texts) > 2:
        raise SalstmError(f"--subgroups takes a CSV file and one of its columns, got {' '.join(texts)}")
    found = read_case_table(Path(texts[0]), "--subgroups", texts[1] if len(texts) == 2 else None, cases)
    return {case: found[case] for case in cases}


def _tolerances(texts: Sequence[str], labels: "Labels") -> dict[str, float]:
    """Returns the tolerance of each label from MM or LABEL=MM."""
    default: float | None = None
    special = {}
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
        elif default is None:
            default = value
        else:
            raise SalstmError(
                f"--tolerance takes one number for all labels, and others as LABEL=MM; got {' '.join(texts)}"
            )
    return {name: special.get(name, TOLERANCE if default is None else default) for name in labels.values}


def _portable(path: Path) -> str:
    """Returns the path with nnU-Net's variable in place of its value, so that a report tells nothing of the machine."""
    for variable in ("nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw"):
        value = os.environ.get(variable)
        if value and path.is_relative_to(value):
            return str(variable / path.relative_to(value))
    return str(path)
