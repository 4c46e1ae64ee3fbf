"""Volumes as their files mean them: headers and voxels are checked for what SimpleITK would replace without a word."""

import gzip
import io
import math
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Header, Nifti2Header
from numpy.typing import NDArray

from nnunetv2_salstm.host.datasets import NIFTI
from nnunetv2_salstm.host.errors import BadFile, reading
from nnunetv2_salstm.host.geometry import Geometry, Volume

# The cosine of the angle between two axes that is taken for a right angle, half a degree off. ITK refuses 1e-6.
NEARLY_ORTHOGONAL = 1e-2


def read_volume(file: Path, flat: bool = False) -> Volume:
    """Reads a volume of one number a voxel, in any format of SimpleITK.

    Args:
        file: to read.
        flat: two axes will do too, and are one slice then.

    Raises:
        BadFile: if it cannot be read whole, or its header or voxels hold what nnU-Net would read otherwise.
    """
    sheared = False
    with reading(file):
        if file.name.endswith(NIFTI):
            require_sound_nifti(file)
        try:
            image = _read_quietly(file)
        except RuntimeError:
            if not file.name.endswith(NIFTI):
                raise
            image, sheared = _read_for_simpleitk(file)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadFile(
            f"{file}: must have one number a voxel, got {image.GetNumberOfComponentsPerPixel()} (colours or vectors)"
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise BadFile(f"{file}: must have real numbers, got complex ones")
    if flat and image.GetDimension() == 2:
        image = sitk.JoinSeries([image])
    if image.GetDimension() != 3:
        raise BadFile(f"{file}: must be a volume of three axes, got {image.GetDimension()}")
    values = sitk.GetArrayFromImage(image)
    require_numbers(values, file)
    geometry = Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    _require_geometry(geometry.spacing, (*geometry.origin, *geometry.direction), file)
    return Volume(values, geometry, sheared)


def require_sound_nifti(file: Path) -> None:
    """Makes sure that a NIfTI file is whole, and that SimpleITK will not replace what its header and voxels say.

    SimpleITK fills up what is missing at the end, reads not-a-number as 0, and an impossible spacing as 1 mm.

    Raises:
        BadFile: otherwise.
    """
    with reading(file):
        header, voxels = _read_nifti(file)
    require_numbers(voxels, file)
    places: list[float] = []
    if header["sform_code"] > 0:
        places += [*header["srow_x"], *header["srow_y"], *header["srow_z"]]
    if header["qform_code"] > 0:
        places += [header[f"qoffset_{axis}"] for axis in "xyz"] + [header[f"quatern_{part}"] for part in "bcd"]
    _require_geometry(header["pixdim"][1 : min(3, header["dim"][0]) + 1], places, file)


def _read_quietly(file: Path) -> sitk.Image:
    """Reads an image without ITK's warnings, lines of which come with every file: what they warn of is checked here."""
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return sitk.ReadImage(str(file))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)


def _read_nifti(file: Path) -> tuple[Nifti1Header, NDArray]:
    """Returns the header as it is, and the voxels as they are stored, (W, H, D, ...)."""
    content = file.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)  # raises for a wrong check sum, or if the end is missing
    if len(content) < 348:
        raise EOFError("the file ends within its header")
    is_second = 540 in (*struct.unpack("<i", content[:4]), *struct.unpack(">i", content[:4]))
    header = (Nifti2Header if is_second else Nifti1Header).from_fileobj(io.BytesIO(content), check=False)
    sizes = header["dim"][1 : header["dim"][0] + 1]
    if not 1 <= header["dim"][0] <= 7 or (sizes < 1).any():
        raise ValueError("its header has no size")
    return header, header.raw_data_from_fileobj(io.BytesIO(content))


def _read_for_simpleitk(file: Path) -> tuple[sitk.Image, bool]:
    """Returns the image of a NIfTI file that SimpleITK refuses, and whether its axes are not at right angles.

    SimpleITK reads nothing where they are a hundredth of a degree off, and no NIfTI 2. The image has the nearest right
    angles.
    """
    header, voxels = _read_nifti(file)
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.get_best_affine()  # ITK's world is the patient's left and back
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise BadFile(f"{file}: the axes in its header must have lengths, got {spacing.tolist()} mm")
    directions = matrix[:3, :3] / spacing
    cosine = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosine > NEARLY_ORTHOGONAL:
        off = math.degrees(math.asin(min(1.0, cosine)))
        raise BadFile(
            f"{file}: the axes must be at right angles, those in its header are {off:.2g} degrees off (sheared); "
            "resample it"
        )
    left, _, right = np.linalg.svd(directions)
    slope, intercept = header.get_slope_inter()
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        voxels = voxels * slope + intercept
    image = sitk.GetImageFromArray(np.squeeze(voxels, tuple(range(3, voxels.ndim))).T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image, bool(cosine > 1e-6)


def require_numbers(values: NDArray, file: Path) -> None:
    """Makes sure that all voxels are finite.

    Raises:
        BadFile: if some are not.
    """
    count = int(values.size - np.isfinite(values).sum()) if values.dtype.kind == "f" else 0
    if count:
        raise BadFile(f"{file}: all voxels must be numbers, {count} are not-a-number or infinite")


def _require_geometry(spacing, places, file: Path) -> None:
    edges = [float(edge) for edge in spacing]
    if not all(math.isfinite(edge) and edge > 0 for edge in edges):
        raise BadFile(f"{file}: the spacing must be positive numbers of mm, got {' x '.join(map(str, edges))}")
    if not np.isfinite(places).all():
        raise BadFile(f"{file}: origin and directions in its header must be numbers, some are not-a-number or infinite")
