"""print the folder with this package's trainers, to put into nnUNet_extTrainer

Only needed where the installation could not do it by itself: export nnUNet_extTrainer=$(nnUNetv2_salstm trainers-path)
"""

import argparse

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm_autoload import trainers_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no argument: the command takes none."""


def run(arguments: argparse.Namespace) -> None:
    """Prints the folder.

    Raises:
        SalstmError: if the installation lacks it.
    """
    folder = trainers_folder()
    if folder is None:
        raise SalstmError("the installation has no trainers folder; run: pip install --force-reinstall nnunetv2-salstm")
    print(folder)
