"""The folder of nnU-Net's raw dataset that a conversion fills, and the splits next to its preprocessed data."""

import json
import os
import shutil
from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunetv2_salstm.converters.case import Case, Collection, Content
from nnunetv2_salstm.converters.pictures import write_picture
from nnunetv2_salstm.converters.splits import Splits
from nnunetv2_salstm.converters.volumes import write_volume
from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.errors import BadFile, SalstmError
from nnunetv2_salstm.host.files import atomic_write, json_if_whole, write_text
from nnunetv2_salstm.host.frames import with_neighbours
from nnunetv2_salstm.host.geometry import Geometry, same_geometry
from nnunetv2_salstm.host.pictures import read_picture
from nnunetv2_salstm.host.volumes import read_volume

MADE_BY = "nnUNetv2_salstm convert"
# Says which conversion the folder belongs to until dataset.json is there, which is written last.
BEGUN = "salstm_conversion.json"
_PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed")


@dataclass(frozen=True)
class Target:
    """Where a conversion writes: a folder in nnUNet_raw, and one file in nnUNet_preprocessed."""

    folder: Path
    splits_file: Path

    @classmethod
    def of(cls, number: int, name: str) -> "Target":
        """Returns the target for nnU-Net's dataset of that number and name.

        Raises:
            SalstmError: if nnU-Net's variables are not set, or the number is that of another dataset.
        """
        unset = [variable for variable in _VARIABLES if not os.environ.get(variable)]
        if unset:
            raise SalstmError(
                f"a dataset is written to nnU-Net's folders; set {' and '.join(_VARIABLES)}, "
                f"{' and '.join(unset)} is not set"
            )
        raw, preprocessed = map(nnunet_folder, _VARIABLES)
        full_name = f"Dataset{number:03d}_{name}"
        # nnU-Net looks for the number in all three, and stops if it finds two names.
        results = Path(os.environ["nnUNet_results"]) if os.environ.get("nnUNet_results") else raw
        for parent in (raw, preprocessed, results):
            for other in sorted(parent.glob(f"Dataset{number:03d}*")):
                if other.name != full_name and other.is_dir():
                    raise SalstmError(
                        f"-d {number} must be a number that no other dataset has, but there is {other}; "
                        "choose another with -d"
                    )
        return cls(raw / full_name, preprocessed / full_name / "splits_final.json")

    def require_free(self, source: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Makes sure that the folder is not there, or may be gone on with or replaced.

        Raises:
            SalstmError: if the folder is not a conversion's, or another's or finished and not to be replaced, or if it
                holds the source.
        """
        if source.resolve().is_relative_to(self.folder.resolve()):
            raise SalstmError(f"-i {source} must not lie in the dataset that is written, {self.folder}")
        if not self.folder.is_symlink() and (not self.folder.exists() or self._is_empty()):
            return
        if self.folder.is_symlink() or not self._is_ours():
            raise SalstmError(
                f"{self.folder} is there and was not made by {MADE_BY}; remove it, or choose another number with -d"
            )
        if overwrite or self._is_begun(settings):
            return
        if self._finished():
            raise SalstmError(f"{self.folder} is there and finished; replace it with --overwrite, or choose another -d")
        raise SalstmError(
            f"{self.folder} was begun with other settings: {self._differences(settings)}; "
            "give the same ones, replace it with --overwrite, or choose another -d"
        )

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder one of a conversion with these settings; an earlier one with others is removed first."""
        if self._is_begun(settings):
            return
        if self.folder.exists():
            # Nobody may take what is half removed for a dataset, or for one that can be gone on with.
            _write_json(self.folder / BEGUN, {"converted_by": MADE_BY, "removed": True})
            (self.folder / "dataset.json").unlink(missing_ok=True)
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != BEGUN:
                    path.unlink()
        _write_json(self.folder / BEGUN, settings)

    def write_case(self, files: Mapping[str, NDArray], geometry: Geometry | None) -> None:
        """Writes the files of a case, unless they are there and hold the same: their source may have changed since.

        Raises:
            OSError: if one cannot be written.
        """
        for name, array in files.items():
            file = self.folder / name
            if file.exists() and _holds(file, array, geometry):
                continue
            with atomic_write(file) as unfinished:
                if geometry is None:
                    write_picture(array, unfinished)
                else:
                    write_volume(array, geometry, unfinished)

    def require_splits(self, splits: Splits, overwrite: bool) -> None:
        """Makes sure that nnU-Net will use these splits, or may be made to.

        Raises:
            SalstmError: if there are others and they are not to be replaced.
        """
        if overwrite or not self.splits_file.exists():
            return
        if json_if_whole(self.splits_file) != splits.folds:
            raise SalstmError(
                f"{self.splits_file} is there and differs from the splits of this conversion; "
                "trainings may rest on it: replace it with --overwrite, or choose another number with -d"
            )

    def finish(self, collection: Collection, files: Container[str], training: int, splits: Splits) -> None:
        """Removes what is none of the cases' files, and writes the splits and, last of all, dataset.json."""
        for part in _PARTS:
            for file in (self.folder / part).glob("*"):
                # Of a case that was left out in the end, or is another's now, or of a process that was killed.
                if f"{part}/{file.name}" not in files:
                    file.unlink()
        if splits.folds:
            for file in (self.folder / "splits_final.json", self.splits_file):
                _write_json(file, splits.folds)
        else:
            self.splits_file.unlink(missing_ok=True)
        _write_json(self.folder / "dataset.json", describe(collection, self.folder.name, training))
        (self.folder / BEGUN).unlink()

    def _is_empty(self) -> bool:
        return self.folder.is_dir() and not any(self.folder.iterdir())

    def _is_ours(self) -> bool:
        makers = [str(self._read(name).get("converted_by")) for name in (BEGUN, "dataset.json")]
        return any(maker.startswith(MADE_BY) for maker in makers)

    def _is_begun(self, settings: Mapping[str, Any]) -> bool:
        return self._read(BEGUN) == settings and not self._finished()

    def _finished(self) -> bool:
        return (self.folder / "dataset.json").exists()

    def _differences(self, settings: Mapping[str, Any]) -> str:
        found = self._read(BEGUN)
        names = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
        # A table of sequences is too long to show.
        return "; ".join(
            f"{name} {str(found.get(name))[:80]} there, {str(settings.get(name))[:80]} now" for name in names
        )

    def _read(self, name: str) -> dict[str, Any]:
        found = json_if_whole(self.folder / name)
        return found if isinstance(found, dict) else {}


def files_of(case: Case, content: Content, ending: str) -> dict[str, NDArray]:
    """Returns the arrays of a case's files, by their names in the dataset's folder."""
    kind = "Ts" if case.test else "Tr"
    files = {f"images{kind}/{case.name}_{index:04d}{ending}": image for index, image in enumerate(content.images)}
    if content.label is not None:
        files[f"labels{kind}/{case.name}{ending}"] = content.label
    return files


def describe(collection: Collection, name: str, training: int) -> dict[str, Any]:
    """Returns nnU-Net's dataset.json for so many training cases."""
    description = {
        "name": name,
        "channel_names": {str(index): channel for index, channel in enumerate(collection.channels)},
        "labels": dict(collection.labels),
        "numTraining": training,
        "file_ending": collection.file_ending,
        "licence": collection.licence,
        "reference": collection.reference,
        "converted_by": f"{MADE_BY} {version('nnunetv2-salstm')}",
    }
    return with_neighbours(description) if collection.neighbours else description


def _holds(file: Path, array: NDArray, geometry: Geometry | None) -> bool:
    """Returns whether a file holds an array; one that cannot be read does not."""
    try:
        if geometry is None:
            return np.array_equal(read_picture(file), array)
        there = read_volume(file)
    except BadFile:
        return False
    same = there.values.dtype == array.dtype and np.array_equal(there.values, array)
    return same and same_geometry(there.geometry, geometry)


def _write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2) + "\n")
