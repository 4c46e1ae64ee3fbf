"""turn the official folder of a data set into an nnU-Net raw dataset: ACDC, ISIC 2018, CVC-ClinicDB, Synapse

Checks every file, writes images, labels, dataset.json and splits that keep a patient or video sequence together, and
says what to type next. After Ctrl-C the same command goes on where it was.

    convert acdc -i ACDC/database
    convert acdc -i ACDC/database --neighbours 1
"""

import argparse
from pathlib import Path

# Numbers of nnU-Net's datasets, without and with neighbours, unless -d gives one.
DATASET_IDS = {"acdc": (27, 127), "isic2018": (701, 701), "cvc-clinicdb": (702, 802), "synapse": (703, 803)}
_HELP = {
    "acdc": "cine MRI of the heart: training/patientNNN/, testing/",
    "isic2018": "skin lesions, task 1: ISIC2018_Task1-2_Training_Input/, ...",
    "cvc-clinicdb": "polyps in video frames: Original/, Ground Truth/",
    "synapse": "abdominal CT (BTCV): RawData/Training/img/, or TransUNet's train_npz/",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a parser for each data set, as they do not have the same options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    subparsers = parser.add_subparsers(dest="data", required=True, metavar="DATA")
    parsers = {name: subparsers.add_parser(name, help=text, description=text) for name, text in _HELP.items()}
    for name, subparser in parsers.items():
        plain, with_neighbours = DATASET_IDS[name]
        default = f"{plain}, with --neighbours {with_neighbours}" if with_neighbours != plain else f"{plain}"
        subparser.add_argument(
            "-i", type=Path, required=True, metavar="FOLDER", dest="folder", help="the official folder"
        )
        subparser.add_argument(
            "-d", type=_dataset_id, metavar="ID", dest="dataset_id", help=f"the dataset's number (default: {default})"
        )
        subparser.add_argument("--dry-run", action="store_true", help="read and check everything, write nothing")
        subparser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote")
        subparser.add_argument("--skip-bad", action="store_true", help="leave bad cases out, and list them")
        subparser.add_argument(
            "-np", type=_positive, metavar="N", dest="processes", help="processes (default: one a core, at most 8)"
        )
    for name in ("acdc", "cvc-clinicdb", "synapse"):
        parsers[name].add_argument(
            "--neighbours",
            type=int,
            choices=(0, 1),
            default=0,
            help="1: the previous and next slice or frame become further channels (default: %(default)s)",
        )
    parsers["isic2018"].add_argument(
        "--max-size", type=_positive, metavar="PIXELS", help="shrink images whose longer edge is longer than this"
    )
    parsers["cvc-clinicdb"].add_argument(
        "--sequences",
        type=Path,
        metavar="CSV",
        help="columns frame and sequence (default: the 29 sequences of the data set)",
    )
    parsers["synapse"].add_argument(
        "--organs",
        type=int,
        choices=(8, 13),
        help="8: TransUNet's organs and its 12 test cases (default: 13, and 8 for TransUNet's files)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Converts, and prints a summary.

    Raises:
        SalstmError: for a folder that is not the data set, bad cases, or a dataset that is already there.
    """
    from nnunetv2_salstm.commands.convert_session import run_convert

    run_convert(arguments)


def _dataset_id(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 999:
        raise argparse.ArgumentTypeError(f"must be from 1 to 999, as nnU-Net's are, got {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
