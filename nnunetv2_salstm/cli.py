"""The command line `nnUNetv2_salstm`; the only place that turns a SalstmError into an exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from nnunetv2_salstm.commands import bench, card, compare, convert, demo, doctor, graft, inspect, plan, study, trainers
from nnunetv2_salstm.commands.options import Parser
from nnunetv2_salstm.host.errors import SalstmError

PROGRAM = "nnUNetv2_salstm"
# A command is a module whose docstring's first line is its help, with the functions `add_arguments(parser)` and
# `run(arguments)`. Its own imports must be light, as --help makes them all: torch and nnU-Net belong into `run`.
COMMANDS = {
    "bench": bench,
    "card": card,
    "compare": compare,
    "convert": convert,
    "demo": demo,
    "doctor": doctor,
    "graft": graft,
    "inspect": inspect,
    "plan": plan,
    "study": study,
    "trainers": trainers,
}

OK, FAILED, INTERRUPTED, BROKEN_PIPE = 0, 1, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name, those of the process by default, and returns the exit status."""
    # What stands behind -- is for the program that a command starts.
    own, passed_on = _split_at_dashes(sys.argv[1:] if argv is None else argv)
    parser = _make_parser()
    try:
        arguments = parser.parse_args(own, argparse.Namespace(passed_on=passed_on))
        if passed_on and arguments.command != "study":
            parser.error(f"{arguments.command} takes nothing behind --, got {' '.join(passed_on)}")
    except SystemExit as exit_:
        # argparse has printed the help or the version, or what is wrong, with status 2.
        return int(exit_.code or OK)
    try:
        COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
    except SalstmError as error:
        print(f"{PROGRAM} {arguments.command}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{PROGRAM} {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads what is printed has seen enough, as head has; what is still to be printed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return OK


def _split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    place = words.index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def _make_parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="SA-LSTM modules as a plugin of stock nnU-Net.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('nnunetv2-salstm')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip()
        subparser = subparsers.add_parser(name, help=text.partition("\n")[0], description=text)
        command.add_arguments(subparser)
    return parser
