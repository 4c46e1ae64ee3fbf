"""show what a trained model's modules do: sparsity, attention, gates, contributions

Runs a trained model, or two side by side, on images and writes a page with figures: how sparse each stage's features
are before and after the module, the attention matrices and whether they have collapsed, the gates, and how much each
module adds to its skip, and where.

    inspect nnUNet_results/Dataset027_ACDC/nnUNetTrainerSALSTM_A__nnUNetPlans__3d_fullres -i imagesTs -o DIR
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the inspection."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL_FOLDER",
        help="nnU-Net's folder of a trained model, TRAINER__PLANS__CONFIGURATION; two are shown side by side",
    )
    parser.add_argument(
        "-i",
        required=True,
        type=Path,
        dest="images",
        metavar="CASES",
        help="folder of images named as for nnUNetv2_predict (CASE_0000), or one of these images for its case only",
    )
    parser.add_argument(
        "-o", required=True, type=Path, dest="out", metavar="DIR", help="new or empty folder for the page"
    )
    parser.add_argument("-f", dest="fold", metavar="FOLD", help="fold, or all (default: the first that is finished)")
    parser.add_argument(
        "-chk", dest="checkpoint", metavar="NAME", default="checkpoint_final.pth", help="checkpoint (%(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Runs the inspection, prints what it found in words and writes page, figures and JSON.

    Raises:
        SalstmError: for a model or images that cannot be read or do not fit together, a missing device, or a folder
            that is not empty or cannot be written to.
    """
    from nnunetv2_salstm.commands.inspect_session import run_inspect

    run_inspect(arguments)
