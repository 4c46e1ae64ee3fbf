"""Segmentations, and images as grey values, in whatever format nnU-Net reads a data set."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunetv2_salstm.host.errors import BadFile, listed, reading
from nnunetv2_salstm.host.geometry import UNIT, Volume
from nnunetv2_salstm.host.pictures import read_picture
from nnunetv2_salstm.host.volumes import read_volume, require_numbers

# How far labels written as floats may be from a whole number: what rounding and compression leave, not probabilities.
NEARLY_WHOLE = 1e-3
# Classes of nnU-Net whose files are read here, and that for pictures.
READ_HERE = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
PICTURES = "NaturalImage2DIO"


def read_label_map(file: Path, reader: str) -> Volume:
    """Reads the whole numbers of a segmentation, (D, H, W); pictures are one slice with pixels of 1 mm.

    Args:
        file: to read.
        reader: name of the nnU-Net class that reads the data set, which is asked for formats that are not known here.

    Raises:
        BadFile: if it cannot be read whole, holds colours or other numbers, or its header is not sound.
    """
    if reader == PICTURES:
        picture = read_picture(file)
        if picture.ndim == 3 and np.ptp(picture, -1).any():
            raise BadFile(f"{file}: a label map must be grey, its values the labels, got colours")
        volume = Volume(np.atleast_3d(picture)[None, ..., 0], UNIT)
    else:
        volume = _read_as_nnunet(file, reader, "read_seg", str(file))
    return replace(volume, values=whole_numbers(volume.values, file))


def read_grey(file: Path, reader: str) -> Volume:
    """Reads an image as grey values, (D, H, W), the first channel of those that have several in a file.

    Args and errors: as `read_label_map`.
    """
    if reader == PICTURES:
        return Volume(np.atleast_3d(read_picture(file)).mean(-1)[None], UNIT)
    return _read_as_nnunet(file, reader, "read_images", [str(file)])


def _read_as_nnunet(file: Path, reader: str, method: str, files: str | list[str]) -> Volume:
    if reader in READ_HERE:
        return read_volume(file, flat=True)
    # Here, as it takes seconds that conversions need not wait.
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    with reading(file):
        values, properties = getattr(recursive_find_reader_writer_by_name(reader)(), method)(files)
    spacing = tuple(float(edge) for edge in properties["spacing"])
    return Volume(values[0], replace(UNIT, spacing=spacing[::-1]))


def whole_numbers(values: NDArray, file: Path) -> NDArray:
    """Returns the labels of a file as whole numbers; floats that are almost whole are rounded.

    Raises:
        BadFile: if there are others.
    """
    if values.dtype.kind in "iu":
        return values
    require_numbers(values, file)
    labels = np.rint(values)
    wrong = np.abs(values - labels) > NEARLY_WHOLE
    if wrong.any():
        raise BadFile(f"{file}: label values must be whole numbers, got {values[wrong][0]!s}")
    return labels.astype(np.int64)


def require_labels(values: NDArray, known: Collection[int], file: Path) -> None:
    """Makes sure that the values of a file are among the labels.

    Raises:
        BadFile: if there is another.
    """
    unknown = np.unique(values[~np.isin(values, list(known))]).tolist()
    if unknown:
        raise BadFile(f"{file}: label values must be among {_range(known)}, got {listed(unknown, 8)}")


def _range(values: Collection[int]) -> str:
    numbers = sorted(values)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
