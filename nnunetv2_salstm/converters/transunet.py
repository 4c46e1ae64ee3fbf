"""CT volumes as TransUNet preprocessed them: intensities clipped and scaled to 0..1, without spacing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunetv2_salstm.converters.case import Case, Content, map_labels
from nnunetv2_salstm.converters.volumes import with_neighbours
from nnunetv2_salstm.host.errors import BadFile, reading
from nnunetv2_salstm.host.geometry import UNIT

_MAPPING = {value: value for value in range(9)}


@dataclass(frozen=True)
class SliceFilesCase(Case):
    """A training case: a .npz file a slice, in their order."""

    files: tuple[Path, ...]
    neighbours: bool

    def read(self) -> Content:
        """Reads and checks the case's files."""
        images: list[NDArray] = []
        labels: list[NDArray[np.uint8]] = []
        for file in self.files:
            with reading(file), file.open("rb") as content, np.load(content) as arrays:
                image, label = _checked(arrays["image"], arrays["label"], 2, file)
            if images and image.shape != images[0].shape:
                raise BadFile(f"{file}: slices of a case must be of one size, {images[0].shape}, got {image.shape}")
            images.append(image)
            labels.append(label)
        return _content(np.stack(images), np.stack(labels), self.neighbours)


@dataclass(frozen=True)
class VolumeFileCase(Case):
    """A test case: a volume (D, H, W) in an HDF5 file."""

    file: Path
    neighbours: bool

    def read(self) -> Content:
        """Reads and checks the case's file."""
        import h5py

        with reading(self.file), h5py.File(self.file) as arrays:
            image, label = _checked(arrays["image"][()], arrays["label"][()], 3, self.file)
        return _content(image, label, self.neighbours)


def _content(image: NDArray, label: NDArray[np.uint8], neighbours: bool) -> Content:
    return Content(with_neighbours(image) if neighbours else (image,), label, UNIT)


def _checked(image: NDArray, label: NDArray, axes: int, file: Path) -> tuple[NDArray, NDArray[np.uint8]]:
    if image.ndim != axes or image.size == 0:
        raise BadFile(f"{file}: image must have {axes} axes, got an array of {image.shape}")
    if label.shape != image.shape:
        raise BadFile(f"{file}: the mask must have its image's size, {image.shape}, got {label.shape}")
    # Written so that not-a-number is refused too.
    if not (image.min() >= 0 and image.max() <= 1):
        raise BadFile(
            f"{file}: intensities must be from 0 to 1, as TransUNet leaves them, got {image.min():g} to {image.max():g}"
        )
    return image.astype(np.float32), map_labels(label, _MAPPING, file)
