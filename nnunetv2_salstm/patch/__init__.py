"""mend known faults of the installed nnU-Net, and undo that

Patches for the exact version that is installed; nothing is needed for others. By default this only looks. Patches of
nnU-Net 2.6.4 and 2.7.0 teach it to find trainers of other packages, as 2.8 does.

    patch                      what could be done
    patch --apply --only 0001  do a part of it
    patch --revert             undo all, to the byte
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to do and with which patches."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", dest="action", action="store_const", const="check", help="say what could be done (default)"
    )
    action.add_argument("--apply", dest="action", action="store_const", const="apply", help="change nnU-Net's files")
    action.add_argument("--revert", dest="action", action="store_const", const="revert", help="restore the release's")
    action.set_defaults(action="check")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="patches by name or number (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Looks at the installed nnU-Net, changes what was asked for, and prints where each patch stands.

    Raises:
        SalstmError: if nnU-Net is not there, a patch does not fit its files, or they cannot be written.
    """
    from nnunetv2_salstm.patch.session import run_patch

    run_patch(arguments)
