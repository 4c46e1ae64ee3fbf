"""Phantoms of a heart in short-axis slices, written as an nnU-Net raw dataset."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_CardiacPhantom"
STRUCTURES = {"RV": 1, "MYO": 2, "LV": 3}
# One edge of the field of view in the slice, and what the slices cover, in mm: the heart fits, with its surroundings.
FIELD_OF_VIEW = 96.0
SLICE_SPACING = 8.0

Array = NDArray[np.floating]


def make_case(seed: int, index: int, slices: int, edge: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Returns an image and its labels, both (slices, edge, edge), base first; equal for equal arguments.

    The left ventricle (LV) is a cavity in a ring of myocardium (MYO) that narrows from base to apex, the right one (RV)
    a crescent beside it, somewhat brighter. As in real cine MRI, papillary muscles in the LV are dark but labelled LV,
    the atria above the base look like the ventricles below it, slices are shifted against each other by breathing,
    vessels and fat nearby are as bright as blood, and a bias field and noise lie over it all.
    """
    rng = np.random.default_rng([seed, index])
    pixel = FIELD_OF_VIEW / edge
    in_plane = (np.arange(edge) - (edge - 1) / 2) * pixel
    z, y, x = np.meshgrid(np.arange(slices) * SLICE_SPACING, in_plane, in_plane, indexing="ij")
    points = np.stack([z, y, x])

    # From 0 at the base to 1 at the apex; the slices may begin above the one and end below the other.
    base, length = rng.uniform(5, 14), rng.uniform(0.72, 0.88) * slices * SLICE_SPACING
    depth = (z - base) / length
    breathing = rng.normal(0, 1.3, size=(2, slices, 1, 1))
    centre_y, centre_x = rng.uniform(-5, 5), rng.uniform(5, 13)
    dy = y - centre_y - breathing[0] - rng.uniform(-8, 8) * depth
    dx = x - centre_x - breathing[1] - rng.uniform(-8, 8) * depth
    radius, angle = np.hypot(dy, dx), np.arctan2(dy, dx)

    taper = np.sqrt(np.clip(1 - np.clip(depth, 0, 1) ** 2, 0, None))
    outer = rng.uniform(22, 29) * taper * _lobes(rng, angle, depth, 0.05)
    wall = rng.uniform(6.5, 10) * (1 - 0.3 * depth) * _lobes(rng, angle, depth, 0.15)
    epicardium = outer - radius
    endocardium = outer - wall - radius

    towards = np.pi + rng.uniform(-0.5, 0.5)
    rv_taper = np.sqrt(np.clip(1 - (np.clip(depth, 0, 1) / rng.uniform(0.75, 0.95)) ** 2, 0, None))
    along = dx * np.cos(towards) + dy * np.sin(towards) - rng.uniform(0.6, 0.85) * outer
    across = dy * np.cos(towards) - dx * np.sin(towards)
    thick, wide = rng.uniform(20, 26), rng.uniform(24, 31)
    rv_radius = np.hypot(along, across * thick / wide)
    rv = thick * rv_taper * _lobes(rng, np.arctan2(across, along), depth, 0.06) - rv_radius

    inside = (depth >= 0) & (depth < 1)
    labels = np.zeros(depth.shape, np.uint8)
    labels[inside & (rv > 0) & (rv_taper > 0.2)] = STRUCTURES["RV"]
    labels[inside & (epicardium > 0)] = STRUCTURES["MYO"]
    labels[inside & (endocardium > 0)] = STRUCTURES["LV"]

    blood, muscle = rng.uniform(0.8, 1.0), rng.uniform(0.28, 0.4)
    image = rng.uniform(0.35, 0.55) + 0.12 * _waves(rng, points, 25)
    image = _paint(image, 10 * _waves(rng, points, 60) - rng.uniform(4, 9), rng.uniform(0.05, 0.15), pixel)  # lung
    image = _paint(image, 10 * _waves(rng, points, 45) - rng.uniform(12, 15), rng.uniform(0.8, 1.2), pixel)  # fat
    for vessel, brightness in _vessels(rng, x, y, z):
        image = _paint(image, vessel + rng.uniform(2, 4), muscle, pixel)
        image = _paint(image, vessel, brightness * blood, pixel)
    # Above the base the same shapes go on as atria and great vessels, with a thin wall.
    above = np.where(depth < 0, 0.75 * wall, 0)
    below_apex = np.where(depth < 1, 0, -np.inf)
    image = _paint(image, rv + np.where(rv_taper > 0.2, 0, -np.inf), rng.uniform(1.1, 1.3) * blood, pixel)
    image = _paint(image, epicardium + below_apex, muscle, pixel)
    image = _paint(image, endocardium + above + below_apex, blood, pixel)
    for papillary in _papillary_muscles(rng, dy, dx, outer - wall, depth):
        image = _paint(image, papillary, muscle, pixel)

    image = image * (1 + 0.05 * _waves(rng, points, 12)) * (1 + rng.normal(0, 0.05, size=(slices, 1, 1)))
    image = image * np.exp(0.25 * _waves(rng, points, 180))
    sigma = rng.uniform(0.05, 0.09)
    noise = rng.normal(0, sigma, size=(2, *image.shape))
    magnitude = np.hypot(np.clip(image, 0, None) + noise[0], noise[1])
    return (500 * magnitude).astype(np.int16), labels


def write_dataset(raw: Path, seed: int, training: int, test: int, slices: int, edge: int) -> Iterator[str]:
    """Writes an nnU-Net raw dataset of that many cases below the folder `raw`, yielding the name of each when written.

    Raises:
        OSError: if a file cannot be written.
    """
    folder = raw / DATASET
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True)
    cases = {}
    for index in range(training + test):
        name, part = f"phantom_{index:03d}", "Tr" if index < training else "Ts"
        # Not every heart is scanned with the same number of slices.
        image, labels = make_case(seed, index, slices + index % 3 - 1, edge)
        _write(image, folder / f"images{part}" / f"{name}_0000.nii.gz")
        _write(labels, folder / f"labels{part}" / f"{name}.nii.gz")
        if part == "Tr":
            cases[name] = {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
        yield name
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **STRUCTURES},
        "numTraining": training,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        # Optional, but without it nnU-Net forks a dozen processes for each listing, and one whose parent is interrupted
        # just then is nobody's.
        "dataset": cases,
        "description": "Synthetic short-axis hearts of nnUNetv2_salstm demo; not patient data",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def _write(volume: NDArray, file: Path) -> None:
    image = sitk.GetImageFromArray(volume)
    pixel = FIELD_OF_VIEW / volume.shape[-1]
    image.SetSpacing((pixel, pixel, SLICE_SPACING))
    sitk.WriteImage(image, str(file))


def _paint(image: Array, distance: Array, value: float, pixel: float) -> Array:
    """Returns the image with `value` where the distance to a border, in mm, is positive, blurred over a pixel."""
    cover = np.clip(distance / pixel + 0.5, 0, 1)
    return image * (1 - cover) + value * cover


def _waves(rng: np.random.Generator, points: Array, wavelength: float, count: int = 16) -> Array:
    """Returns a smooth random field of about unit variance and of that wavelength in mm."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    frequencies = directions / (wavelength * rng.uniform(0.7, 1.5, size=(count, 1)))
    phases = rng.uniform(0, 1, size=(count, 1, 1, 1))
    return np.sqrt(2 / count) * np.cos(2 * np.pi * (np.tensordot(frequencies, points, 1) + phases)).sum(0)


def _lobes(rng: np.random.Generator, angle: Array, depth: Array, amplitude: float) -> Array:
    """Returns a factor around 1 that makes a circle irregular and twists with the depth."""
    factor = np.ones_like(angle)
    for order in (1, 2, 3):
        phase, twist = rng.uniform(0, 2 * np.pi), rng.uniform(-1.5, 1.5)
        factor += rng.uniform(0, amplitude) * np.cos(order * angle + phase + twist * depth)
    return factor


def _vessels(rng: np.random.Generator, x: Array, y: Array, z: Array) -> Iterator[tuple[Array, float]]:
    """Yields the distance field, in mm, and the relative brightness of each of a few slanted tubes around the heart."""
    for _ in range(rng.integers(2, 5)):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(36, 52)
        slant_y, slant_x = rng.uniform(-0.15, 0.15, size=2)
        dy = y - distance * np.sin(angle) - slant_y * z
        dx = x - distance * np.cos(angle) - slant_x * z
        yield rng.uniform(4, 10) - np.hypot(dy, dx), rng.uniform(0.8, 1.05)


def _papillary_muscles(rng: np.random.Generator, dy: Array, dx: Array, cavity: Array, depth: Array) -> Iterator[Array]:
    """Yields the distance field, in mm, of each of the two papillary muscles in the LV."""
    for side in (-1, 1):
        angle = side * rng.uniform(0.8, 1.5)
        offset = rng.uniform(0.5, 0.7) * cavity
        distance = np.hypot(dy - offset * np.sin(angle), dx - offset * np.cos(angle))
        middle = (depth > 0.2) & (depth < rng.uniform(0.6, 0.75))
        yield np.where(middle, np.minimum(rng.uniform(2.5, 4), 0.25 * cavity), -np.inf) - distance
