"""compare trainings or predictions case by case: metrics, statistics, cost

From the results that nnU-Net leaves behind: is an arm better than the first one on this data set, by how much, how sure
is that, and what does it cost? Runs that differ only in _seed<S> are one arm.

    compare 027 -c 3d_fullres --trainers nnUNetTrainer nnUNetTrainerSALSTM_A nnUNetTrainerSALSTM_B
    compare --reference LABELS --predictions vanilla=DIR a=DIR
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the comparison."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help="by number or name; with -c and --trainers")
    parser.add_argument("-c", metavar="CONFIGURATION", dest="configuration", help="e.g. 3d_fullres")
    parser.add_argument("--trainers", nargs="+", metavar="TRAINER", help="the first is what others are compared with")
    parser.add_argument(
        "-f", nargs="+", type=_fold, metavar="FOLD", dest="folds", help="folds (default: all of the first trainer)"
    )
    parser.add_argument("-p", metavar="PLANS", dest="plans_name", default="nnUNetPlans", help="(%(default)s)")
    parser.add_argument("--reference", type=Path, metavar="LABELS", help="folder of reference segmentations")
    parser.add_argument(
        "--predictions", nargs="+", metavar="NAME=DIR", help="folders of predictions; the first is the baseline"
    )
    parser.add_argument(
        "--dataset-json", type=Path, metavar="FILE", help="nnU-Net's, for --reference (default: found in the folders)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="of the cases, for --html with --reference (default: none are shown)"
    )
    parser.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="MM",
        help="of the surface Dice, in mm, for all labels or as LABEL=MM (default: 2)",
    )
    parser.add_argument(
        "--groups", type=Path, metavar="CSV", help="columns case and group, e.g. the patient of each image"
    )
    parser.add_argument("--common-only", action="store_true", help="compare on the cases that all arms have")
    parser.add_argument(
        "--bench", type=Path, metavar="FILE", help="JSON of nnUNetv2_salstm bench, for times and memory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with figures and a gallery of cases")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each run, case and label")
    parser.add_argument("--processes", type=_positive, metavar="N", help="that score cases (default: at most 8)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where scores are kept (default: nnunetv2_salstm in the user's cache)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the comparison, prints its report and writes what was asked for.

    Raises:
        SalstmError: for results that are missing, unfinished or do not fit together, or files that cannot be read.
    """
    from nnunetv2_salstm.commands.compare_session import run_compare

    run_compare(arguments)


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or all, got {text}")
    return int(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
