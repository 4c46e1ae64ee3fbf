"""look for what keeps this installation from working, and say what to do

Versions, which nnU-Net is imported, whether it finds our trainers, its folders, torch.compile, and a small network on
each device. Changes nothing.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of the form."""
    parser.add_argument("--json", action="store_true", help="print the same for programs")


def run(arguments: argparse.Namespace) -> None:
    """Makes all checks and prints what they found.

    Raises:
        SalstmError: if something needs doing.
    """
    from nnunetv2_salstm.doctor.session import run_doctor

    run_doctor(arguments)
