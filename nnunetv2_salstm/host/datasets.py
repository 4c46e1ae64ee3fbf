"""Finding nnU-Net's folders and the data sets in them."""

import os
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError

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
