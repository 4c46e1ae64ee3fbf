"""Runs an inspection from the command line's arguments: reads the models, runs them on the cases, writes the folder."""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nnunetv2_salstm.evaluation.probe import Probe
from nnunetv2_salstm.host.cases import Case, find_cases, preprocess
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.host.models import Model, labels_of, make_predictor
from nnunetv2_salstm.host.versions import describe_hardware, package_versions, require_device
from nnunetv2_salstm.reporting.inspection import ModelFindings, Report
from nnunetv2_salstm.reporting.inspection_figures import draw_overlays
from nnunetv2_salstm.reporting.inspection_overlay import Overlay, fullest_slice, make_overlay
from nnunetv2_salstm.reporting.inspection_page import draw_figures, to_html
from nnunetv2_salstm.tables import markdown_table

MOST_MODELS = 2


def run_inspect(arguments: argparse.Namespace) -> None:
    """Inspects, prints what was found in words and writes the folder.

    Raises:
        SalstmError: for models or images that cannot be read or do not fit together, a missing device, or a folder
            that is not empty or cannot be written to.
    """
    if len(arguments.models) > MOST_MODELS:
        raise SalstmError(f"MODEL_FOLDER must be one or two folders, got {len(arguments.models)}")
    require_device(arguments.device)
    models = [Model.read(folder, arguments.fold, arguments.checkpoint) for folder in arguments.models]
    labels = labels_of(models)
    _check_pair(models)
    cases = find_cases(arguments.images, models[0].file_ending)
    # The folder first, as a mistake in its name should show at once.
    with _new_folder(arguments.out) as folder:
        subjects = [_Subject(model, label, arguments.device) for model, label in zip(models, labels, strict=True)]
        for subject in subjects:
            print(f"{subject.findings.label}: {subject.model.folder}, fold {subject.model.fold}", flush=True)
        overlays: dict[str, str] = {}
        for number, case in enumerate(cases, start=1):
            start = time.monotonic()
            drawn = _look_at(subjects, case)
            if drawn is not None:
                overlays[case.name] = f"map_{case.name}.png"
                _write(folder, overlays[case.name], drawn)
            print(f"case {number} of {len(cases)}, {case.name}: {time.monotonic() - start:.1f} s", flush=True)
        report = Report(
            shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
            str(arguments.images),
            [subject.findings for subject in subjects],
            {**package_versions(), **describe_hardware(arguments.device)},
        )
        for name, picture in draw_figures(report).items():
            _write(folder, name, picture)
        _write(folder, "inspect.json", report.to_json().encode())
        _write(folder, "index.html", to_html(report, overlays).encode())
    print(f"\n{markdown_table(report.rows())}\n")
    print("\n".join(report.words()))
    print(f"Written: {arguments.out / 'index.html'}, with its figures and inspect.json")


class _Subject:
    """A model with what watches it and what was found in it."""

    def __init__(self, model: Model, label: str, device: str):
        self.model = model
        self.predictor = make_predictor(model, device, sys.stderr.isatty())
        self.probe = Probe(model.network)
        about = {
            "folder": str(model.folder),
            "trainer": model.trainer,
            "plans": model.plans.plans_name,
            "configuration": model.configuration_name,
            "fold": model.fold,
            "checkpoint": model.checkpoint,
        }
        self.findings = ModelFindings(label, about, model.salstm)

    def look_at(self, case: Case) -> tuple[float, float]:
        """Runs the model on a case, keeps what was seen, and returns the edge lengths of its pixels, in mm."""
        data, pixel = preprocess(self.model, case)
        self.probe.clear()
        with self.probe.watching():
            self.predictor.predict_sliding_window_return_logits(data)
        self.findings.cases[case.name] = self.probe.findings
        return pixel


def _look_at(subjects: list[_Subject], case: Case) -> bytes | None:
    """Runs the models on a case and returns the figure of their contributions, None if there are no modules."""
    pixels = [subject.look_at(case) for subject in subjects]
    overlays: list[tuple[ModelFindings, Overlay]] = []
    for subject, pixel in zip(subjects, pixels, strict=True):
        if subject.probe.blocks:
            # The same slice of both models where their preprocessing agrees.
            same = [s for s in subjects if s.predictor.data.shape == subject.predictor.data.shape]
            z = fullest_slice(same[0].predictor)
            overlays.append((subject.findings, make_overlay(subject.model, subject.predictor, subject.probe, pixel, z)))
    return draw_overlays(case.name, overlays) if overlays else None


def _check_pair(models: list[Model]) -> None:
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
        SalstmError: if it is there and not empty, or cannot be made.
    """
    with ExitStack() as stack:
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise SalstmError(f"-o {out} holds something else; choose a new or empty folder")
            folder = stack.enter_context(written_whole(out.absolute()))
            folder.mkdir()
        except OSError as error:
            raise _cannot_write(out, error) from error
        yield folder


def _write(folder: Path, name: str, content: bytes) -> None:
    try:
        (folder / name).write_bytes(content)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> SalstmError:
    return SalstmError(f"-o {folder} cannot be written to: {error.strerror}; free some room, or choose another folder")
