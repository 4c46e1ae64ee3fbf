"""Pictures as a viewer shows them, or the reason why not."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nnunetv2_salstm.host.errors import BadFile, reading


def read_picture(file: Path) -> NDArray:
    """Reads a picture as a viewer shows it: (H, W) if it is grey, (H, W, 3) in colour, 8 bits; grey also of more bits.

    Palette, white as zero, orientation and colour model are resolved.

    Raises:
        BadFile: if it cannot be read whole, or does not say what is seen, e.g. is transparent or has several pages.
    """
    with reading(file):
        content = file.read_bytes()
        try:
            # Not the file itself: Pillow maps it, and then turns uncompressed TIFFs wrongly.
            with Image.open(io.BytesIO(content)) as image:
                picture = _as_seen(image, file)
        except UnidentifiedImageError:
            if not file.name.lower().endswith((".tif", ".tiff")):
                raise
            picture = _read_odd_tiff(content, file)
    if picture.size == 0:
        raise BadFile(f"{file}: cannot be read, is it complete? (it has no pixels)")
    return picture


def _as_seen(image: Image.Image, file: Path) -> NDArray:
    # Phones write a second picture for zooming, which viewers do not show.
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise BadFile(f"{file}: must be one picture, got {pages} pages")
    # Pillow names the layout of the channels with the data, and would give the upper 8 bits.
    if image.mode == "RGB" and ";16" in str(getattr(image, "tile", "")):
        raise BadFile(f"{file}: must have 8 bits a channel, got uint16")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise BadFile(
            f"{file}: must not be transparent, as what is seen depends on what is behind; save it without alpha channel"
        )
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))


def _read_odd_tiff(content: bytes, file: Path) -> NDArray:
    """Reads a TIFF that Pillow refuses, such as CVC-ClinicDB's, whose three channels are declared grey."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        if not tiff.pages:
            raise BadFile(f"{file}: has no picture in it, is it complete?")
        if len(tiff.pages) > 1:
            raise BadFile(f"{file}: must be one picture, got {len(tiff.pages)} pages")
        page = tiff.pages.first
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise BadFile(f"{file}: must be grey or RGB, got a TIFF of {tifffile.PHOTOMETRIC(page.photometric).name}")
        if (orientation := page.tags.valueof("Orientation", 1)) != 1:
            raise BadFile(f"{file}: must be upright, got a TIFF with the orientation {orientation}")
        if set(page.extrasamples) - {tifffile.EXTRASAMPLE.UNSPECIFIED}:
            raise BadFile(f"{file}: must not be transparent, got a TIFF with an alpha channel")
        picture = page.asarray()
    if picture.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 3 and (picture.shape[-1], picture.dtype) != (3, np.uint8):
        raise BadFile(f"{file}: must have three channels of 8 bits, got {picture.shape[-1]} of {picture.dtype}")
    return picture
