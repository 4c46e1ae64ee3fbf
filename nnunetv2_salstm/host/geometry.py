"""Where the voxels of a volume lie in the world, and whether a mask lies where its image lies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunetv2_salstm.host.errors import BadFile

# Of a voxel: how far the centres of the voxels of a mask may be from those of its image.
SAME_PLACE = 0.1


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


# Where the voxels of what says nothing of it lie, such as a picture.
UNIT = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


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
