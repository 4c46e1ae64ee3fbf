"""run everything once, on phantoms: plan, preprocess, train three networks, predict, evaluate

Generates a small data set of cardiac phantoms and takes it through stock nnU-Net, with the stock network and with
SA-LSTM modules A and B, in minutes. It shows that an installation works and how the pieces fit, and says nothing about
accuracy. Everything lands in one folder; after Ctrl-C the same command goes on where it was.
"""

import argparse
from pathlib import Path

from nnunetv2_salstm.commands.options import add_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the demo."""
    add_option(
        parser,
        "-o",
        metavar="DIR",
        default=Path("nnunetv2_salstm_demo"),
        help="folder for everything the demo writes (default: ./%(default)s)",
    )
    add_option(parser, "-device", help="where to train and predict (%(default)s)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller volumes and shorter training: under 4 minutes, not 12, on two cores",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the demo.

    Raises:
        SalstmError: if the device, the folder or the disk does not allow it, or a command of nnU-Net fails.
    """
    from nnunetv2_salstm.commands.demo_stages import FULL, QUICK, run_demo

    run_demo(arguments.output.absolute(), QUICK if arguments.quick else FULL, arguments.device)
