"""turn the official folder of a data set into an nnU-Net raw dataset: ACDC, ISIC 2018, CVC-ClinicDB, Synapse

Checks every file, writes images, labels, dataset.json and splits that keep a patient or video sequence together, and
says what to type next. After Ctrl-C the same command goes on where it was.

    convert acdc -i ACDC/database
    convert acdc -i ACDC/database --neighbours 1
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.commands.options import add_option, positive
from nnunetv2_salstm.host.errors import SalstmError

if TYPE_CHECKING:
    from nnunetv2_salstm.converters.summary import Summary

# Numbers of nnU-Net's datasets, without and with neighbours, unless -d gives one.
DATASET_IDS = {"acdc": (27, 127), "isic2018": (701, 701), "cvc-clinicdb": (702, 802), "synapse": (703, 803)}
_HELP = {
    "acdc": "cine MRI of the heart: training/patientNNN/, testing/",
    "isic2018": "skin lesions, task 1: ISIC2018_Task1-2_Training_Input/, ...",
    "cvc-clinicdb": "polyps in video frames: Original/, Ground Truth/",
    "synapse": "abdominal CT (BTCV): RawData/Training/img/, or TransUNet's train_npz/",
}


# Options of some of the data sets, as the converters know them.
_OPTIONS = ("neighbours", "max_size", "sequences", "organs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a parser for each data set, as they do not have the same options."""
    subparsers = parser.add_subparsers(dest="data", required=True, metavar="DATA")
    parsers = {name: subparsers.add_parser(name, help=text, description=text) for name, text in _HELP.items()}
    for name, subparser in parsers.items():
        plain, with_neighbours = DATASET_IDS[name]
        default = f"{plain}, with --neighbours {with_neighbours}" if with_neighbours != plain else f"{plain}"
        add_option(subparser, "-i", required=True, metavar="FOLDER", help="the official folder")
        add_option(
            subparser, "-d", metavar="ID", type=_dataset_id, help=f"number of the new data set (default: {default})"
        )
        add_option(subparser, "-np", help="processes (default: one a core, at most 8)")
        add_option(subparser, "--overwrite", help="replace what an earlier conversion wrote")
        subparser.add_argument("--dry-run", action="store_true", help="read and check everything, write nothing")
        subparser.add_argument("--skip-bad", action="store_true", help="leave bad cases out, and list them")
    for name in ("acdc", "cvc-clinicdb", "synapse"):
        parsers[name].add_argument(
            "--neighbours",
            type=int,
            choices=(0, 1),
            default=0,
            help="1: the previous and next slice or frame become further channels (default: %(default)s)",
        )
    parsers["isic2018"].add_argument(
        "--max-size", type=positive, metavar="PIXELS", help="shrink images whose longer edge is longer than this"
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
        SalstmError: for a folder that is not the data set, bad cases, a dataset that is already there, or a full disk.
    """
    from nnunetv2_salstm.converters.conversion import FINDERS, convert
    from nnunetv2_salstm.converters.dataset import Target

    source = arguments.input
    if not source.is_dir():
        raise SalstmError(f"-i {source} must be the data set's folder, and there is no such folder")
    options = {name: value for name, value in vars(arguments).items() if name in _OPTIONS}
    collection = FINDERS[arguments.data](source, **options)
    number = arguments.dataset or DATASET_IDS[arguments.data][collection.neighbours]
    target = Target.of(number, collection.name + "_25d" * collection.neighbours)
    summary = convert(
        collection, source, target, arguments.overwrite, arguments.dry_run, arguments.skip_bad, arguments.processes
    )
    _print(target.folder.name, summary)
    if arguments.dry_run:
        print("Dry run: nothing was written.")
    else:
        only = " -c 2d" * collection.neighbours  # 3D would see neighbours twice
        print(f"Written: {target.folder}")
        print(f"Next: nnUNetv2_plan_and_preprocess -d {number}{only} --verify_dataset_integrity")


def _print(name: str, summary: "Summary") -> None:
    from nnunetv2_salstm.reporting.tables import Table, markdown_table

    table = Table(summary.labels, formats={"voxels": ",", "pixels": ",", "share": ".2%"})
    print(name, *summary.cases, "", markdown_table(table), "", *summary.remarks, sep="\n")


def _dataset_id(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 999:
        raise argparse.ArgumentTypeError(f"must be from 1 to 999, as nnU-Net's are, got {text}")
    return int(text)
