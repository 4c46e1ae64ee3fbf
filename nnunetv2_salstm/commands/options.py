"""nnU-Net's grammar of options, defined once for all commands, and the parser that reads it."""

import argparse
import re
from pathlib import Path
from typing import Any

DEVICE_RULE = "cpu, cuda, cuda:N or mps"


class Parser(argparse.ArgumentParser):
    """A parser that takes options as they are written, and whose errors show the usage of the command they are of.

    Args:
        settings: of argparse.ArgumentParser.
    """

    def __init__(self, **settings: Any):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses; what is left over is an error here, as argparse would show the usage of the whole program for it."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # Whatever allow_abbrev says, argparse takes options of one dash for a shorter one with its value: -device for
        # -d evice. Here an option is written in full, and its value stands for itself.
        return []


def device(text: str) -> str:
    """Returns the name of a device.

    Raises:
        argparse.ArgumentTypeError: if it is not one that torch trains on.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", text):
        raise argparse.ArgumentTypeError(f"must be {DEVICE_RULE}, got {text}")
    return text


def fold(text: str) -> int | str:
    """Returns the number of a fold, or "all".

    Raises:
        argparse.ArgumentTypeError: if it is neither.
    """
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or all, got {text}")
    return int(text)


def positive(text: str) -> int:
    """Returns a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


_OPTIONS: dict[str, dict[str, Any]] = {
    "-d": {"dest": "dataset", "metavar": "DATASET", "help": "data set, by number or name"},
    "-c": {"dest": "configuration", "metavar": "CONFIGURATION", "help": "e.g. 3d_fullres"},
    "-p": {"dest": "plans", "metavar": "PLANS", "default": "nnUNetPlans", "help": "name of the plans (%(default)s)"},
    "-tr": {"dest": "trainer", "metavar": "TRAINER", "help": "trainer, see nnUNetv2_salstm trainers"},
    "-f": {"dest": "fold", "metavar": "FOLD", "type": fold, "help": "number of a fold, or all"},
    "-i": {"dest": "input", "metavar": "INPUT", "type": Path, "help": "folder to read"},
    "-o": {"dest": "output", "metavar": "OUTPUT", "type": Path, "help": "folder to write to"},
    "-np": {"dest": "processes", "metavar": "N", "type": positive, "help": "processes"},
    "-device": {
        "dest": "device",
        "metavar": "{cpu,cuda,cuda:N,mps}",
        "type": device,
        "default": "cpu",
        "help": "where to compute (%(default)s)",
    },
    "--overwrite": {"dest": "overwrite", "action": "store_true", "help": "replace what is there already"},
}


def add_option(parser: Any, flag: str, many: bool = False, **changes: Any) -> None:
    """Adds an option of nnU-Net's grammar to a parser or group.

    Args:
        parser: of a command.
        flag: as it is written, e.g. "-d".
        many: takes one value or more; the attribute's name is then the plural, e.g. `folds`.
        changes: of the arguments of `add_argument`, e.g. required or help.
    """
    settings = {**_OPTIONS[flag], **changes}
    if many:
        settings |= {"nargs": "+", "dest": changes.get("dest", f"{settings['dest']}s")}
    parser.add_argument(flag, **settings)
