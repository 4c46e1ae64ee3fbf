"""nnU-Net's three folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nnunetv2_salstm.doctor.finding import Finding, note, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LITTLE_SPACE = 20e9


def check_folders(machine: Machine) -> Iterator[Finding]:
    """Each must be set, exist and take files, with some room."""
    for variable in VARIABLES:
        yield _check_folder(variable)


def _check_folder(variable: str) -> Finding:
    value = os.environ.get(variable)
    if not value:
        return wrong(variable, "not set", f"name a folder of yours: export {variable}=/path/to/a/folder")
    folder = Path(value)
    try:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            return wrong(variable, f"{value} {what}", f"make the folder that {variable} names: {value}")
    except PermissionError as error:
        return wrong(variable, f"{value} is out of reach: {error.strerror}", _let_name_another(variable, value))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"nnunetv2_salstm")
    except OSError as error:
        text = f"{value} takes no files: {error.strerror}"
        if variable == "nnUNet_raw":
            # Shared and read-only at many places.
            return note(variable, f"{text}; only converting data sets needs that")
        return wrong(variable, text, _let_name_another(variable, value))
    free = shutil.disk_usage(folder).free
    text = f"{value}, {free / 1e9:.0f} GB free"
    if free < LITTLE_SPACE:
        return note(variable, f"{text}: little, as preprocessed data and checkpoints take tens of GB")
    return ok(variable, text)


def _let_name_another(variable: str, value: str) -> str:
    return f"let {variable} name a folder that you may write to, got {value}"
