"""measure time, memory and size of networks against the stock one

For each plan and trainer: parameters, FLOPs, seconds per training step and per inference tile, peak memory. Training
steps are nnU-Net's own (forward, loss with deep supervision, backward, clipping, optimiser; on CUDA under its autocast
and compilation, which nnUNet_compile=f switches off) on synthetic data. The trainers take turns within one process,
and what is compared are medians relative to nnUNetTrainerSALSTMOff.
"""

import argparse
from pathlib import Path

from nnunetv2_salstm.host.presets import PRESETS
from nnunetv2_salstm.reporting.bench import BASELINE

TRAINERS = (BASELINE, "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the benchmark."""
    plans = parser.add_mutually_exclusive_group()
    plans.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        default=list(PRESETS),
        help=f"plans that come with this package, all by default: {', '.join(PRESETS)}",
    )
    plans.add_argument("--plans", type=Path, metavar="FILE", help="nnU-Net plans, e.g. nnUNetPlans.json")
    plans.add_argument("-d", metavar="DATASET", dest="dataset", help="a planned data set, by number or name")
    parser.add_argument(
        "-c",
        nargs="+",
        metavar="CONFIGURATION",
        dest="configurations",
        help="of the plans or data set, e.g. 3d_fullres (default: every one in a file of plans)",
    )
    parser.add_argument(
        "-p", metavar="PLANS", dest="plans_name", default="nnUNetPlans", help="plans of the data set (%(default)s)"
    )
    parser.add_argument(
        "--trainers",
        nargs="+",
        metavar="TRAINER",
        default=list(TRAINERS),
        help=f"trainers to compare (default: {' '.join(TRAINERS)}); ratios need {BASELINE}",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (%(default)s)")
    parser.add_argument(
        "--repeats", type=_positive, default=5, metavar="N", help="timed rounds, after the warm-up (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=_positive, metavar="N", help="at most so many samples a batch (default: the plans')"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with table and bar chart")


def run(arguments: argparse.Namespace) -> None:
    """Runs the benchmark, prints its table and writes what was asked for.

    Raises:
        SalstmError: for an unknown preset, trainer, data set or configuration, a missing device, files that cannot be
            read or written, or when a trainer failed for another reason than memory.
    """
    from nnunetv2_salstm.commands.bench_session import run_bench

    run_bench(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
