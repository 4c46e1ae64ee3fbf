"""write plans with which nnU-Net's own trainers train SA-LSTM networks

Copies plans of a data set and names our network in them, so that the stock nnUNetTrainer trains and predicts it. The
preprocessed data are shared. With a memory target the blocks, and last of all the patch, become smaller until nnU-Net's
estimate keeps it.
"""

import argparse
from pathlib import Path

from nnunetv2_salstm.config import MODULES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which plans, which blocks and how much memory."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="ID", help="number or name of the data set")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="NAME", help="plans to copy (%(default)s)")
    parser.add_argument(
        "-c", dest="configurations", nargs="+", metavar="NAME", help="configurations that get blocks (all by default)"
    )
    parser.add_argument("--module", choices=MODULES, help="A by default, or what --config says")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='values of the configuration as JSON, e.g. {"steps": 3}, or plans that have them',
    )
    parser.add_argument(
        "--gpu-memory-target",
        type=_gigabytes,
        metavar="GB",
        help="memory for training, as nnU-Net estimates it; without it blocks, batch and patch stay as they are",
    )
    parser.add_argument(
        "-overwrite_plans_name",
        dest="name",
        metavar="NAME",
        help="name of the new plans (the old name and, for module A, SALSTM_A)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name that say something else")
    parser.add_argument(
        "--draw", action="store_true", help="draw each network with its blocks, an SVG beside the plans"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the plans and says what training with them needs.

    Raises:
        SalstmError: if the plans to copy are missing, the blocks do not fit them, or the target is too small.
    """
    from nnunetv2_salstm.commands.plan_session import run_plan

    run_plan(arguments)


def _gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of GB, got {text}")
    return value
