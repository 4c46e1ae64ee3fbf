"""show what a trained model's modules do: sparsity, attention, gates, contributions

Runs a trained model, or two side by side, on images and writes a page with figures: how sparse each stage's features
are before and after the module, the attention matrices and whether they have collapsed, the gates, and how much each
module adds to its skip, and where. With references it also predicts without the modules, and says what is lost.

    inspect nnUNet_results/Dataset027_ACDC/nnUNetTrainerSALSTM_A__nnUNetPlans__3d_fullres -i imagesTs -o DIR
    inspect MODEL_FOLDER -i imagesTs --reference labelsTs -o DIR
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.host.datasets import case_files
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write

if TYPE_CHECKING:
    from nnunetv2_salstm.host.models import Model

MOST_MODELS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the inspection."""
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL_FOLDER",
        help="nnU-Net's folder of a trained model, TRAINER__PLANS__CONFIGURATION; two are shown side by side",
    )
    cases = "folder of images named as for nnUNetv2_predict (CASE_0000), or one of these images for its case only"
    add_option(parser, "-i", metavar="CASES", required=True, help=cases)
    add_option(parser, "-o", metavar="DIR", required=True, help="new or empty folder for the page")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="LABELS",
        help="folder of segmentations: what is lost without the modules",
    )
    add_option(parser, "-f", help="fold, or all (default: the first that is finished)")
    parser.add_argument(
        "-chk", dest="checkpoint", metavar="NAME", default="checkpoint_final.pth", help="checkpoint (%(default)s)"
    )
    add_option(parser, "-device")


def run(arguments: argparse.Namespace) -> None:
    """Runs the inspection, prints what it found in words and writes page, figures and JSON.

    Raises:
        SalstmError: for a model or images that cannot be read or do not fit together, a missing device, or a folder
            that is not empty or cannot be written to.
    """
    import pandas

    from nnunetv2_salstm.evaluation.identity_test import identity_test, losses
    from nnunetv2_salstm.evaluation.inspection import COLLAPSED, FEW, inspection_json
    from nnunetv2_salstm.evaluation.subject import Subject, look_at
    from nnunetv2_salstm.host.cases import find_cases
    from nnunetv2_salstm.host.models import Model, labels_of
    from nnunetv2_salstm.host.versions import describe_hardware, package_versions, require_device
    from nnunetv2_salstm.reporting.document import picture_files, to_html, to_terminal
    from nnunetv2_salstm.reporting.inspection import inspection_document
    from nnunetv2_salstm.reporting.inspection_figures import draw_maps

    if len(arguments.models) > MOST_MODELS:
        raise SalstmError(f"MODEL_FOLDER must be one or two folders, got {len(arguments.models)}")
    require_device(arguments.device)
    fold = None if arguments.fold is None else str(arguments.fold)
    models = [Model.read(folder, fold, arguments.checkpoint) for folder in arguments.models]
    labels = labels_of(models)
    _check_pair(models)
    cases = find_cases(arguments.input, models[0].file_ending)
    references = _references(arguments.reference, models[0].file_ending, [case.name for case in cases])
    versions = {**package_versions(), **describe_hardware(arguments.device)}
    command, images = shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]), str(arguments.input)
    # The folder first, as a mistake in its name should show at once.
    with _new_folder(arguments.output) as folder:
        progress = sys.stderr.isatty()
        subjects = [
            Subject(model, label, arguments.device, progress) for model, label in zip(models, labels, strict=True)
        ]
        findings = [subject.findings for subject in subjects]
        for subject in subjects:
            print(f"{subject.findings.label}: {subject.model.folder}, fold {subject.model.fold}", flush=True)
        maps: dict[str, bytes] = {}
        for number, case in enumerate(cases, start=1):
            start = time.monotonic()
            if found := look_at(subjects, case):
                maps[case.name] = draw_maps(case.name, found)
            print(f"case {number} of {len(cases)}, {case.name}: {time.monotonic() - start:.1f} s", flush=True)
        tested = [subject for subject in subjects if references and subject.model.salstm]
        for subject in tested:
            print(f"{subject.findings.label}: with its blocks, without them, and stage by stage", flush=True)
            subject.findings.identity_test = identity_test(
                subject.model, cases, references, arguments.device, show_progress=progress
            )
        document = inspection_document(
            pandas.concat([model.frame() for model in findings], ignore_index=True),
            [
                {"model": model.label, **model.about, "modules": (model.salstm or {}).get("module", "none")}
                for model in findings
            ],
            {model.label: {which: matrix.numpy() for which, matrix in model.matrices().items()} for model in findings},
            maps,
            [sentence for model in findings for sentence in model.words()],
            {model.label: losses(model.identity_test) for model in findings if model.identity_test is not None},
            images=images,
            collapsed=COLLAPSED,
            few=FEW,
            command=command,
            versions=versions,
        )
        values = inspection_json(findings, command=command, images=images, made_with=versions)
        for name, picture in picture_files(document.blocks).items():
            (folder / name).write_bytes(picture)
        (folder / "inspect.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / "index.html").write_text(to_html(document), encoding="utf-8")
    print(f"\n{to_terminal(document)}")
    print(f"Written: {arguments.output / 'index.html'}, its figures as PNG, and inspect.json")


def _references(folder: Path | None, ending: str, cases: "Sequence[str]") -> dict[str, Path]:
    if folder is None:
        return {}
    found = case_files(folder, ending)
    if missing := [case for case in cases if case not in found]:
        raise SalstmError(
            f"--reference {folder} must have the segmentation of every case, CASE{ending}; it lacks {len(missing)} of "
            f"{len(cases)}, the first: {missing[0]}{ending}"
        )
    return found


def _check_pair(models: "Sequence[Model]") -> None:
    first, *others = models
    for other in others:
        for name, ours, theirs in (
            ("input channels", first.input_channels, other.input_channels),
            ("file ending", first.file_ending, other.file_ending),
        ):
            if ours != theirs:
                raise SalstmError(
                    f"two models must read the same images, but their {name} differ: {ours} of {first.folder.name} and "
                    f"{theirs} of {other.folder.name}"
                )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder that becomes `out` when it is complete; an interrupted one is removed.

    Raises:
        SalstmError: if it is there and not empty, or it cannot be written to.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise SalstmError(f"-o {out} holds something else; choose a new or empty folder")
        with atomic_write(out.absolute()) as folder:
            folder.mkdir()
            yield folder
    except OSError as error:
        reason = f"{error.strerror}; free some room, or choose another folder"
        raise SalstmError(f"-o {out} cannot be written to: {reason}") from error
