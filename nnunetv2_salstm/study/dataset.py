"""A data set in nnU-Net's folders, as a study sees it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.datasets import find_dataset, nnunet_folder, read_dataset_json
from nnunetv2_salstm.host.errors import SalstmError

# Of nnU-Net's own cross-validation; it cannot be made of fewer cases.
FOLDS = 5


@dataclass(frozen=True)
class Dataset:
    """A data set in nnU-Net's folders.

    Attributes:
        raw, preprocessed, results: nnU-Net's folders of it, of which only the first needs to be there.
        description: its dataset.json.
        training_cases: names of the cases that are preprocessed.
        test_cases: names of those in imagesTs, in the order in which nnU-Net cuts them into parts.
    """

    raw: Path
    preprocessed: Path
    results: Path
    description: Mapping[str, Any]
    training_cases: list[str]
    test_cases: list[str]

    @classmethod
    def find(cls, dataset: str) -> "Dataset":
        """Finds a data set by number or name.

        Raises:
            SalstmError: if it is not there, or nnU-Net's folders are not.
        """
        raw = find_dataset("nnUNet_raw", dataset)
        description = read_dataset_json(raw / "dataset.json", ("labels", "file_ending"))
        ending = description["file_ending"]
        # Behind a case's name stands its channel, _0000.
        training, test = (
            sorted({file.name[: -len("_0000") - len(ending)] for file in (raw / folder).glob(f"*{ending}")})
            for folder in ("imagesTr", "imagesTs")
        )
        preprocessed, results = (nnunet_folder(f"nnUNet_{name}") / raw.name for name in ("preprocessed", "results"))
        return cls(raw, preprocessed, results, description, sorted(description.get("dataset") or training), test)

    @property
    def name(self) -> str:
        """Its name, e.g. Dataset027_ACDC."""
        return self.raw.name

    @property
    def number(self) -> str:
        """Its number, as nnU-Net's commands take it."""
        return str(int(self.name[len("Dataset") :].partition("_")[0]))

    @property
    def ending(self) -> str:
        """Of its images and predictions."""
        return str(self.description["file_ending"])

    @property
    def splits_file(self) -> Path:
        """nnU-Net's folds."""
        return self.preprocessed / "splits_final.json"

    @property
    def folds(self) -> int:
        """How many folds there are: those of `splits_file`, else those that nnU-Net makes.

        Raises:
            SalstmError: if the file cannot be read.
        """
        if not self.splits_file.is_file():
            return FOLDS
        try:
            return len(json.loads(self.splits_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise SalstmError(f"{self.splits_file} must be a list of folds: {error}") from None
