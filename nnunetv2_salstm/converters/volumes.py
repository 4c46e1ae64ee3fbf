"""Volumes in NIfTI files."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunetv2_salstm.converters.case import Case, Content, map_labels
from nnunetv2_salstm.host.datasets import NIFTI
from nnunetv2_salstm.host.geometry import Geometry, in_place
from nnunetv2_salstm.host.volumes import read_volume

ENDING = ".nii.gz"
_REORDERED = (
    "the mask's axes run otherwise than its image's, its voxels were put into the image's order, place by place in the "
    "world"
)
_SHEARED = "the axes in a header are not quite at right angles, the nearest right angles were written"


@dataclass(frozen=True)
class VolumeCase(Case):
    """A case of one image and, unless it is a test case without, one label file.

    Args:
        mapping: the labels to write for the values in the file.
        neighbours: the previous and next slices become further images.
    """

    image: Path
    label: Path | None
    mapping: Mapping[int, int]
    neighbours: bool

    def read(self) -> Content:
        """Reads and checks the case's files."""
        volume = read_volume(self.image)
        remarks = [_SHEARED] if volume.sheared else []
        label = None
        if self.label is not None:
            mask = read_volume(self.label)
            values = in_place(mask, volume, self.label)
            if not np.array_equal(values, mask.values):
                remarks.append(_REORDERED)
            label = map_labels(values, self.mapping, self.label)
        images = with_neighbours(volume.values) if self.neighbours else (volume.values,)
        return Content(images, label, volume.geometry, tuple(remarks))


def with_neighbours(volume: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Returns a volume (D, H, W), and for each of its slices the previous and the next one, in volumes of that size.

    The first slice is its own previous one, and the last its own next one.
    """
    previous = np.concatenate([volume[:1], volume[:-1]])
    following = np.concatenate([volume[1:], volume[-1:]])
    return volume, previous, following


def volume_cases(images: Sequence[Path], labels: Sequence[Path | None], **about: Any) -> list[tuple[Case, Path]]:
    """Returns a case for each image and label file, with the one that tells it from others; there should be one.

    Labels may be missing; what else a case has is the same for all.
    """
    return [
        (VolumeCase(image=image, label=label, **about), label if label and len(labels) > 1 else image)
        for image in images
        for label in labels or [None]
    ]


def volume_files(folder: Path, name: str) -> list[Path]:
    """Returns the NIfTI files of a name, compressed or not, of which there should be one."""
    return [file for ending in NIFTI if (file := folder / f"{name}{ending}").is_file()]


def write_volume(volume: NDArray, geometry: Geometry, file: Path) -> None:
    """Writes a volume (D, H, W).

    Raises:
        OSError: if it cannot be written.
    """
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
        # On a full disk SimpleITK writes what has room, and says nothing.
        with gzip.open(file) as content:
            while content.read(1 << 24):
                pass
    except (RuntimeError, EOFError) as error:
        raise OSError(f"{file}: not all of it could be written") from error
