"""What is compared on which cases: runs, the references and images of their data set, and how nnU-Net reads them."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.evaluation.runs import Run, runs_of_folders, runs_of_trainers
from nnunetv2_salstm.host.datasets import case_files, find_dataset, read_dataset_json
from nnunetv2_salstm.host.errors import SalstmError

_NEEDED = ("labels", "file_ending")


@dataclass(frozen=True)
class Task:
    """Runs and the cases that they are compared on.

    Attributes:
        place: data set and configuration as the beginning of a title, "" for folders.
        runs: whose predictions are compared.
        references: folder of the reference segmentations.
        dataset_json: nnU-Net's description of the data set.
        configuration: of the trainings, None for folders.
        images: files of each case, {} where there are none.
    """

    place: str
    runs: list[Run]
    references: Path
    dataset_json: dict[str, Any]
    configuration: str | None
    images: dict[str, list[Path]]

    @property
    def file_ending(self) -> str:
        """The ending of the data set's files."""
        return str(self.dataset_json["file_ending"])

    def reader(self) -> str:
        """Returns the name of the class that nnU-Net reads this data set with.

        Raises:
            SalstmError: if there are no references, or nnU-Net can read none of them.
        """
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        files = list(case_files(self.references, self.file_ending).values())
        if not files:
            raise SalstmError(f"{self.references} has no files *{self.file_ending}")
        for file in files:
            try:
                # It prints a traceback for each class that cannot read a file, which is named when it is scored.
                with redirect_stderr(io.StringIO()):
                    found = determine_reader_writer_from_dataset_json(dict(self.dataset_json), str(file), verbose=False)
            except RuntimeError:
                continue
            return str(found.__name__)
        raise SalstmError(
            f"none of the files *{self.file_ending} in {self.references} can be read by nnU-Net; look at {files[0]}"
        )


def task_of_trainers(
    dataset: str,
    configuration: str,
    plans: str,
    trainers: Sequence[str],
    folds: Sequence[int | str] | None,
    with_images: bool,
) -> Task:
    """Returns the task of comparing trainings on their validation cases.

    Args:
        dataset: number or name of the data set.
        configuration, plans: e.g. 3d_fullres and nnUNetPlans.
        trainers: names of trainers.
        folds: which, or None for those that the first trainer has.
        with_images: whether the raw images are looked for.

    Raises:
        SalstmError: if a folder, trainer or fold is not there or not finished.
    """
    results = find_dataset("nnUNet_results", dataset)
    runs = runs_of_trainers(results.parent, results.name, configuration, plans, trainers, folds)
    references = find_dataset("nnUNet_preprocessed", results.name) / "gt_segmentations"
    model = results / f"{runs[0].name}__{plans}__{configuration}"
    dataset_json = read_dataset_json(model / "dataset.json", _NEEDED)
    images = _raw_images(results.name, dataset_json) if with_images else {}
    return Task(f"{results.name}, {configuration}: ", runs, references, dataset_json, configuration, images)


def task_of_folders(
    predictions: Mapping[str, Path], references: Path, dataset_json: Path | None, images: Path | None
) -> Task:
    """Returns the task of comparing folders of predictions.

    Args:
        predictions: folders by the names of their methods.
        references: folder of the reference segmentations.
        dataset_json: nnU-Net's, None for that in the folders.
        images: folder of the cases' images, None for none.

    Raises:
        SalstmError: if a folder is not there, or the dataset.json is missing or contradicts another.
    """
    if not references.is_dir():
        raise SalstmError(f"--reference {references}: there is no such folder")
    runs = runs_of_folders(predictions)
    # nnU-Net leaves one with its predictions, and next to the reference in a raw data set.
    folders = [*predictions.values(), references.parent]
    candidates = [folder / "dataset.json" for folder in folders] if dataset_json is None else [dataset_json]
    files = [file for file in candidates if file.is_file()]
    if not files:
        raise SalstmError(
            "which labels there are is not known, as none of the folders has a dataset.json; "
            "give nnU-Net's with --dataset-json"
        )
    found, *others = (read_dataset_json(file, _NEEDED) for file in files)
    for file, other in zip(files[1:], others, strict=True):
        if other["labels"] != found["labels"]:
            raise SalstmError(
                f"{files[0]} and {file} have other labels; give the one that is right with --dataset-json"
            )
    return Task("", runs, references, found, None, {} if images is None else _images_in(images, found["file_ending"]))


def _raw_images(dataset: str, dataset_json: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Returns the images of each raw training case, {} where the raw data are not there any more."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    try:
        folder = find_dataset("nnUNet_raw", dataset)
        found = get_filenames_of_train_images_and_targets(str(folder), dict(dataset_json))
    except (SalstmError, OSError) as error:
        print(f"There are no images to show: {error}")
        return {}
    return {case: [Path(file) for file in files["images"]] for case, files in found.items()}


def _images_in(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Returns the images in a folder, named as nnU-Net names its inputs (CASE_0000) or as the case."""
    named = case_files(folder, ending)
    if not named:
        raise SalstmError(f"--images {folder} has no files *{ending}")
    first = {name.removesuffix("_0000"): file for name, file in named.items() if name.endswith("_0000")}
    return {name: [file] for name, file in {**named, **first}.items()}
