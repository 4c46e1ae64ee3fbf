"""Finding nnU-Net's folders and the data sets in them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json

NIFTI = (".nii.gz", ".nii")
_MADE_BY = {
    "nnUNet_raw": "the raw data belong there",
    "nnUNet_preprocessed": "plan it with: nnUNetv2_plan_and_preprocess",
    "nnUNet_results": "train on it with: nnUNetv2_train",
}


def nnunet_folder(variable: str) -> Path:
    """Returns the folder of an nnU-Net variable, e.g. nnUNet_results.

    Raises:
        SalstmError: if it is not set or no folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise SalstmError(f"nnU-Net's folders are needed; set the variable {variable}")
    if not Path(value).is_dir():
        raise SalstmError(f"{variable} must be a folder, got {value}")
    return Path(value)


def read_dataset_json(file: Path, needed: Sequence[str] = ("labels",)) -> dict[str, Any]:
    """Returns nnU-Net's dataset.json.

    Args:
        file: to read.
        needed: what it must have, labels at least.

    Raises:
        SalstmError: if it cannot be read, is of nnU-Net v1, or lacks what is needed.
    """
    values = read_json(file, "a data set")
    labels = values.get("labels")
    if "modality" in values or (isinstance(labels, dict) and any(isinstance(label, str) for label in labels.values())):
        raise SalstmError(
            f"{file} is of nnU-Net v1, with modality and labels {{number: name}}; convert the data set with "
            "nnUNetv2_convert_old_nnUNet_dataset"
        )
    missing = [key for key in needed if key not in values]
    if missing:
        raise SalstmError(f"{file} is no dataset.json of nnU-Net: it lacks {', '.join(missing)}")
    if not isinstance(labels, dict) or not all(map(_is_label, labels.values())):
        raise SalstmError(f"{file}: labels must be {{name: number}}, or lists of numbers for regions, got {labels}")
    return values


def case_files(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files of a folder by case: hidden ones are none, .nii is as good as .nii.gz, capitals do not matter.

    Raises:
        SalstmError: if there are two of a case.
    """
    endings = NIFTI if ending in NIFTI else (ending,)
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        of_file = next((known for known in endings if file.name.lower().endswith(known.lower())), None)
        if of_file is None or file.name.startswith(".") or not file.is_file():
            continue
        name = file.name[: -len(of_file)]
        if name in found:
            raise SalstmError(f"{found[name]} and {file}: {name} must be there once; remove one")
        found[name] = file
    return found


def _is_label(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, int) and not isinstance(part, bool) for part in parts)


def find_dataset(variable: str, dataset: str) -> Path:
    """Returns the folder of a data set, given by number or name, in the folder of an nnU-Net variable.

    Raises:
        SalstmError: if the variable is not set, or the folder has no such data set.
    """
    parent = nnunet_folder(variable)
    folders = sorted(folder for folder in parent.glob("Dataset*") if folder.is_dir())
    if dataset.isdecimal():
        found = [folder for folder in folders if folder.name.startswith(f"Dataset{int(dataset):03d}_")]
    else:
        found = [folder for folder in folders if folder.name == dataset]
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found or folders) or "none"
        raise SalstmError(
            f"the data set must be one of {variable} ({parent}), which has {names}; got {dataset}; {_MADE_BY[variable]}"
        )
    return found[0]
