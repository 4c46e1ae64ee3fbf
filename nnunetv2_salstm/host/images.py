"""Images, masks and label maps as their files mean them: headers and pixel types are checked, or the reason is said."""

import gzip
import io
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Header, Nifti2Header
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nnunetv2_salstm.host.datasets import NIFTI

# How far labels written as floats may be from a whole number: what rounding and compression leave, not probabilities.
NEARLY_WHOLE = 1e-3
# Of a voxel: how far the centres of the voxels of a mask may be from those of its image.
SAME_PLACE = 0.1
# The cosine of the angle between two axes that is taken for a right angle, half a degree off. ITK refuses 1e-6.
NEARLY_ORTHOGONAL = 1e-2


class BadFile(Exception):
    """A file that breaks a rule; the message names the file and the rule."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie, as SimpleITK says it: x, y, z, in mm."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def affine(self) -> NDArray[np.float64]:
        """Returns the matrix, (4, 4), from a voxel's indices (x, y, z, 1) to its place in the world."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        matrix[:3, 3] = self.origin
        return matrix


@dataclass(frozen=True)
class Volume:
    """Numbers (D, H, W) in the world; sheared if the file's axes were not quite at right angles, as these are."""

    values: NDArray
    geometry: Geometry
    sheared: bool = False


# Classes of nnU-Net whose files are read here, and that for pictures.
READ_HERE = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
PICTURES = "NaturalImage2DIO"
# Where the pixels of a picture lie.
ONE_SLICE = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns whatever a library fails with on a file into a BadFile that names it."""
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except Exception as error:
        # Errors of SimpleITK have several lines, the last of which says what is wrong.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise BadFile(f"{file}: cannot be read, is it complete? ({reason[:200]})") from None


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
    _require_numbers(values, file)
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
    _require_numbers(voxels, file)
    places: list[float] = []
    if header["sform_code"] > 0:
        places += [*header["srow_x"], *header["srow_y"], *header["srow_z"]]
    if header["qform_code"] > 0:
        places += [header[f"qoffset_{axis}"] for axis in "xyz"] + [header[f"quatern_{part}"] for part in "bcd"]
    _require_geometry(header["pixdim"][1 : min(3, header["dim"][0]) + 1], places, file)


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
        volume = Volume(np.atleast_3d(picture)[None, ..., 0], ONE_SLICE)
    else:
        volume = _read_as_nnunet(file, reader, "read_seg", str(file))
    return replace(volume, values=whole_numbers(volume.values, file))


def read_grey(file: Path, reader: str) -> Volume:
    """Reads an image as grey values, (D, H, W), the first channel of those that have several in a file.

    Args and errors: as `read_label_map`.
    """
    if reader == PICTURES:
        return Volume(np.atleast_3d(read_picture(file)).mean(-1)[None], ONE_SLICE)
    return _read_as_nnunet(file, reader, "read_images", [str(file)])


def _read_as_nnunet(file: Path, reader: str, method: str, files: str | list[str]) -> Volume:
    if reader in READ_HERE:
        return read_volume(file, flat=True)
    # Here, as it takes seconds that conversions need not wait.
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    with reading(file):
        values, properties = getattr(recursive_find_reader_writer_by_name(reader)(), method)(files)
    spacing = tuple(float(edge) for edge in properties["spacing"])
    return Volume(values[0], replace(ONE_SLICE, spacing=spacing[::-1]))


def whole_numbers(values: NDArray, file: Path) -> NDArray:
    """Returns the labels of a file as whole numbers; floats that are almost whole are rounded.

    Raises:
        BadFile: if there are others.
    """
    if values.dtype.kind in "iu":
        return values
    _require_numbers(values, file)
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
        shown = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
        raise BadFile(f"{file}: label values must be among {_listed(known)}, got {shown}")


def in_place(mask: Volume, image: Volume, file: Path, names: tuple[str, str] = ("mask", "image")) -> NDArray:
    """Returns the values of a mask for the voxels of its image, which must be at the same places in the world.

    The mask's axes may run in another order or direction: its file then holds the same voxels in another order.

    Args:
        mask: to be put in order.
        image: whose order is wanted.
        file: of the mask, for errors.
        names: of mask and image, for errors.

    Raises:
        BadFile: if mask and image differ in size, spacing or place.
    """
    values = _reordered(mask, image)
    if values is None:
        raise BadFile(f"{file}: {_difference(mask, image, *names)}")
    return values


def same_geometry(one: Geometry, other: Geometry) -> bool:
    """Returns whether two volumes say the same, but for rounding, of where the voxels lie."""
    return all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)
        for name in ("spacing", "origin", "direction")
    )


def _reordered(mask: Volume, image: Volume) -> NDArray | None:
    to_mask = np.linalg.inv(mask.geometry.affine()) @ image.geometry.affine()
    turns = np.rint(to_mask[:3, :3]).astype(int)
    if not (np.abs(turns).sum(0) == 1).all() or not (np.abs(turns).sum(1) == 1).all():
        return None
    # The axis of the mask (x, y, z) that each axis of the image is, and whether it runs the other way.
    axes = np.abs(turns).argmax(0)
    backwards = turns[axes, range(3)] < 0
    values = mask.values.T.transpose(axes)
    if values.shape != image.values.T.shape:
        return None
    last = np.array(values.shape) - 1
    corners = np.array(np.meshgrid(*[(0, edge) for edge in last])).reshape(3, -1)
    expected = np.empty_like(corners)
    expected[axes] = np.where(backwards[:, None], last[:, None] - corners, corners)
    found = to_mask[:3, :3] @ corners + to_mask[:3, 3:]
    if np.abs(found - expected).max() > SAME_PLACE:
        return None
    return np.flip(values, tuple(np.flatnonzero(backwards).tolist())).T


def _difference(mask: Volume, image: Volume, one: str, other: str) -> str:
    """Returns the rule of their places in the world that a mask breaks, its size first."""
    if sorted(mask.values.shape) != sorted(image.values.shape):
        sizes = (" x ".join(map(str, volume.values.shape)) for volume in (image, mask))
        return "the {} must have its {}'s size, {} voxels, got {}".format(one, other, *sizes)
    theirs, ours = image.geometry, mask.geometry
    if not np.allclose(sorted(ours.spacing), sorted(theirs.spacing), rtol=1e-3):
        return f"the {one} must have its {other}'s spacing, {theirs.spacing} mm, got {ours.spacing}"
    places = (("origin", theirs.origin, ours.origin), ("direction", theirs.direction, ours.direction))
    parts = [
        f"{name} {_numbers(of_image)} of the {other}, {_numbers(of_mask)} of the {one}"
        for name, of_image, of_mask in places
        if not np.allclose(of_image, of_mask, atol=1e-6)
    ]
    return (
        f"the {one} must lie where its {other} lies; {'; '.join(parts)}; if the voxels belong together all the same, "
        f"give the {one} its {other}'s header"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.7g}' for value in values)})"


def _listed(values: Collection[int]) -> str:
    numbers = sorted(values)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


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


def _require_numbers(values: NDArray, file: Path) -> None:
    count = int(values.size - np.isfinite(values).sum()) if values.dtype.kind == "f" else 0
    if count:
        raise BadFile(f"{file}: all voxels must be numbers, {count} are not-a-number or infinite")


def _require_geometry(spacing, places, file: Path) -> None:
    edges = [float(edge) for edge in spacing]
    if not all(math.isfinite(edge) and edge > 0 for edge in edges):
        raise BadFile(f"{file}: the spacing must be positive numbers of mm, got {' x '.join(map(str, edges))}")
    if not np.isfinite(places).all():
        raise BadFile(f"{file}: origin and directions in its header must be numbers, some are not-a-number or infinite")


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
