"""run everything once, on phantoms: plan, preprocess, train three networks, predict, evaluate

Generates a small data set of cardiac phantoms and takes it through stock nnU-Net, with the stock network and with
SA-LSTM modules A and B, in minutes. It shows that an installation works and how the pieces fit, and says nothing about
accuracy. Everything lands in one folder; after Ctrl-C the same command goes on where it was.
"""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the demo."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("nnunetv2_salstm_demo"),
        help="folder for everything the demo writes (default: ./%(default)s)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller volumes and shorter training: under 4 minutes, not 10, on two cores",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the demo.

    Raises:
        SalstmError: if the device, the folder or the disk does not allow it.
    """
    # Before torch is imported: threads that spin while they wait make a run several times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from nnunetv2_salstm.commands.demo_pipeline import run_demo
    from nnunetv2_salstm.commands.demo_settings import FULL, QUICK

    run_demo(arguments.out.absolute(), QUICK if arguments.quick else FULL, arguments.device)
