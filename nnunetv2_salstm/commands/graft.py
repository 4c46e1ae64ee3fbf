"""make a trained stock model an SA-LSTM model that predicts the same

Takes a checkpoint of a stock network, or a results folder with its folds (.../nnUNetTrainer__nnUNetPlans__3d_fullres).
The stock weights stay, the blocks start as the identity. The result is a results folder of the SA-LSTM trainer: predict
with it, continue its training (--c), or start a new training from it (-pretrained_weights).
"""

import argparse
from pathlib import Path

DEFAULT_TRAINER = "nnUNetTrainerSALSTM_A"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is grafted, where to, and which blocks."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint (.pth), or a results folder with its folds"
    )
    parser.add_argument(
        "-o",
        dest="out",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder of results to write to, such as nnUNet_results; data set and model become folders in it",
    )
    parser.add_argument(
        "--trainer",
        default=DEFAULT_TRAINER,
        metavar="NAME",
        help="trainer the result belongs to, one of this package, with any suffix; nnUNetTrainer for the plans of "
        "nnUNetv2_salstm plan (%(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='values of the configuration as JSON, e.g. {"steps": 3}, or plans of nnUNetv2_salstm plan',
    )


def run(arguments: argparse.Namespace) -> None:
    """Grafts, and prints what to do with the result.

    Raises:
        SalstmError: if the checkpoint is not a stock network's, or the result cannot be written.
    """
    from nnunetv2_salstm.commands.graft_session import run_graft

    run_graft(arguments)
