"""run whole studies: data sets x configurations x folds x trainers x seeds, on Slurm or here

One file names what is compared. Every task is one command of nnU-Net or of this package; what is finished is told from
their own outputs, so that the same command goes on with what is missing after any interruption.

    matrix STUDY.yaml --dry-run                prints the commands that are missing, to be pasted into a shell
    matrix STUDY.yaml --executor slurm         submits them; also: matrix run STUDY.yaml
    matrix status STUDY.yaml                   what is finished, runs or failed, and the time left
    matrix report STUDY.yaml                   all comparisons that are there as one page; the study's last task, too
"""

import argparse
from pathlib import Path

ACTIONS = ("run", "status", "report")
EXECUTORS = ("slurm", "local", "debug")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to do with which study, and where."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s [run | status | report] STUDY.yaml [--executor {slurm,local,debug}] [--jobs N] [--dry-run]"
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="run", help="(default: run)")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="slurm submits job arrays; local runs tasks on this machine; debug in this process, one after the other "
        "(default: local)",
    )
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="tasks at once, for local (default: as many as there are GPUs)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are missing and start nothing")


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing of a study, says how it stands, or reports what it found.

    Raises:
        SalstmError: if the study cannot be run here, before anything is started; or at the end if a task failed.
    """
    from nnunetv2_salstm.study.session import run_matrix

    run_matrix(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
