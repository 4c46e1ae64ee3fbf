"""Volumes in NIfTI files."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunetv2_salstm.converters.case import BadCase, Case, Content, Geometry, map_labels, reading
from nnunetv2_salstm.converters.neighbours import with_neighbours

ENDING = ".nii.gz"


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
        volume, geometry = _read(self.image)
        label, remark = None, None
        if self.label is not None:
            values, of_label = _read(self.label)
            if values.shape != volume.shape:
                raise BadCase(
                    f"{self.label}: the mask must have its image's size, {_size(volume)} voxels, got {_size(values)}"
                )
            if not np.allclose(of_label.spacing, geometry.spacing, rtol=1e-3):
                raise BadCase(
                    f"{self.label}: the mask must have its image's spacing, {geometry.spacing} mm, "
                    f"got {of_label.spacing}"
                )
            if not _same_place(of_label, geometry):
                remark = (
                    "Origin or direction of mask and image differ; they were paired voxel by voxel, as nnU-Net does, "
                    "and the image's were written."
                )
            label = map_labels(values, self.mapping, self.label)
        images = with_neighbours(volume) if self.neighbours else (volume,)
        return Content(images, label, geometry, remark)


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
        _require_whole(file)
    except (RuntimeError, EOFError) as error:
        raise OSError(f"{file}: not all of it could be written") from error


def _read(file: Path) -> tuple[NDArray, Geometry]:
    with reading(file):
        _require_whole(file)
        image = sitk.ReadImage(str(file))
        if image.GetDimension() != 3:
            raise BadCase(f"{file}: must be a volume of three axes, got {image.GetDimension()}")
        return sitk.GetArrayFromImage(image), Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _require_whole(file: Path) -> None:
    """Reads a compressed file to its end, at which gzip raises EOFError or OSError if it is truncated or corrupt.

    SimpleITK does not: it fills up what is missing, and leaves the check sum alone.
    """
    with gzip.open(file) as content:
        while content.read(1 << 24):
            pass


def _same_place(one: Geometry, other: Geometry) -> bool:
    return np.allclose(one.origin, other.origin, atol=1e-2) and np.allclose(one.direction, other.direction, atol=1e-3)


def _size(volume: NDArray) -> str:
    return " x ".join(map(str, volume.shape))
