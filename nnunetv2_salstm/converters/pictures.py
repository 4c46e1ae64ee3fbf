"""Colour pictures with masks: JPEG, PNG and TIFF."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunetv2_salstm.converters.case import Case, Content
from nnunetv2_salstm.host.errors import BadFile
from nnunetv2_salstm.host.pictures import read_picture

ENDING = ".png"
# nnU-Net reads a colour picture as three channels, and divides those of this name by 255.
RGB = ("rgb_to_0_1",) * 3
# Edges of masks are grey where they were compressed or resized.
THRESHOLD = 127
# What compression may leave of colours where a mask is grey.
TINT = 32


@dataclass(frozen=True)
class PictureCase(Case):
    """A picture, or a video frame with its neighbours.

    Args:
        images: the picture itself first; a file may occur twice.
        label: a mask, white where the structure is; None for a test case without one.
        max_size: the longest edge that is written, in pixels; None for any.
    """

    images: tuple[Path, ...]
    label: Path | None
    max_size: int | None = None

    def read(self) -> Content:
        """Reads and checks the case's files."""
        pictures = tuple(_read_rgb(file) for file in self.images)
        size = pictures[0].shape[:2]
        for file, picture in zip(self.images, pictures, strict=True):
            if picture.shape[:2] != size:
                raise BadFile(
                    f"{file}: neighbouring frames must be of one size, {_size(picture)} pixels is not that of "
                    f"{self.images[0].name}, {_size(pictures[0])}"
                )
        mask = None
        if self.label is not None:
            mask = _read_mask(self.label)
            if mask.shape != size:
                raise BadFile(
                    f"{self.label}: the mask must have its image's size, {_size(pictures[0])} pixels, got {_size(mask)}"
                )
        if self.max_size is not None and max(size) > self.max_size:
            height, width = (max(1, round(edge * self.max_size / max(size))) for edge in size)
            pictures = tuple(_resized(picture, width, height, Image.Resampling.LANCZOS) for picture in pictures)
            mask = None if mask is None else _resized(mask, width, height, Image.Resampling.NEAREST)
        return Content(pictures, mask)


def write_picture(picture: NDArray[np.uint8], file: Path) -> None:
    """Writes a picture (H, W, 3) or a mask (H, W).

    Raises:
        OSError: if it cannot be written.
    """
    Image.fromarray(picture).save(file)


def _read_rgb(file: Path) -> NDArray[np.uint8]:
    picture = read_picture(file)
    if picture.ndim != 3:
        raise BadFile(f"{file}: must be a colour picture of three channels, got a grey one of {_size(picture)} pixels")
    return picture


def _read_mask(file: Path) -> NDArray[np.uint8]:
    values = read_picture(file)
    if values.dtype != np.uint8:
        raise BadFile(f"{file}: must have 8 bits a channel, got {values.dtype}")
    if values.ndim == 3:
        tint = int(np.ptp(values, -1).max())
        if tint > TINT:
            raise BadFile(f"{file}: a mask must be black and white, got colours (channels differ by {tint} of 255)")
        values = values.max(-1)
    mask = values > THRESHOLD
    if values.any() and not mask.any():
        raise BadFile(f"{file}: a mask must be 255 where the structure is, got values up to {values.max()}")
    return mask.astype(np.uint8)


def _resized(picture: NDArray[np.uint8], width: int, height: int, resampling: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((width, height), resampling))


def _size(picture: NDArray) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]}"
