"""The cases to look at: nnU-Net's files, its preprocessing, and the slice that is shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.utils import create_paths_fn, get_identifiers_from_splitted_dataset_folder
from torch import Tensor

from nnunetv2_salstm.host.datasets import NIFTI
from nnunetv2_salstm.host.errors import BadFile, SalstmError
from nnunetv2_salstm.host.models import Model
from nnunetv2_salstm.host.volumes import require_sound_nifti


@dataclass(frozen=True)
class Case:
    """A case and its files, one for each channel or one with all of them."""

    name: str
    files: list[Path]


def find_cases(images: Path, ending: str) -> list[Case]:
    """Returns the cases of a folder, named as for nnUNetv2_predict, or the one that a file belongs to.

    Raises:
        SalstmError: if there are none.
    """
    if images.is_dir():
        folder = images
        names = [str(name) for name in get_identifiers_from_splitted_dataset_folder(str(folder), ending)]
    elif images.is_file():
        folder = images.parent
        names = [images.name[: -len(ending) - len("_0000")]] if images.name.endswith(ending) else []
    else:
        raise SalstmError(f"-i {images}: there is no such folder or file")
    names = [name for name in names if not name.startswith(".")]
    there = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    cases = [Case(name, sorted(map(Path, create_paths_fn(str(folder), there, ending, name)))) for name in names]
    if not any(case.files for case in cases):
        raise SalstmError(
            f"-i {images} has no images of this model; they are named CASE_0000{ending}, CASE_0001{ending}"
        )
    return [case for case in cases if case.files]


def preprocess(model: Model, case: Case) -> tuple[Tensor, dict[str, Any]]:
    """Returns a case as the model's network reads it, (C, D, H, W), and what nnU-Net needs to write its prediction.

    Raises:
        SalstmError: if its files cannot be read, hold what nnU-Net's reader reads otherwise, or have other channels
            than the model.
    """
    try:
        for file in case.files:
            if file.name.endswith(NIFTI):
                require_sound_nifti(file)
    except BadFile as error:
        raise SalstmError(f"case {case.name}: {error}") from None
    try:
        image, properties = model.plans.image_reader_writer_class().read_images([str(file) for file in case.files])
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SalstmError(f"case {case.name} cannot be read by nnU-Net ({reason}); look at {case.files[0]}") from None
    if len(image) != model.input_channels:
        raise SalstmError(
            f"images must have {model.input_channels} channels, those of {model.folder.name}; case {case.name} has "
            f"{len(image)} ({', '.join(file.name for file in case.files)})"
        )
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        image, None, properties, model.plans, model.configuration, model.dataset_json
    )
    return torch.from_numpy(data), properties
