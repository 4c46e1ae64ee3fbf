"""Tiny data sets in the layouts in which they are distributed, for the tests of `convert`."""

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunetv2_salstm.converters.case import Case, Content

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")
SPACING, ORIGIN, DIRECTION = (1.25, 1.5, 8.0), (-10.0, 20.5, 3.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)


def write_nifti(file, array, spacing=SPACING, origin=ORIGIN, direction=DIRECTION, is_vector=False):
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing(spacing[: image.GetDimension()])
    if image.GetDimension() == 3:
        image.SetOrigin(origin)
        image.SetDirection(direction)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def write_patient(folder, group="NOR", frames=(1, 12), size=(4, 12, 10), label=True):
    """Writes a patient of ACDC, the folder's name being the patient's."""
    rng = np.random.default_rng(int(folder.name[-3:]))
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: {group}\nHeight: 184.0\n")
    (folder / f"{folder.name}_4d.nii.gz").write_bytes(b"never read")
    for frame in frames:
        name = f"{folder.name}_frame{frame:02d}"
        write_nifti(folder / f"{name}.nii.gz", rng.integers(0, 1000, size).astype(np.int16))
        if label:
            write_nifti(folder / f"{name}_gt.nii.gz", rng.integers(0, 4, size).astype(np.uint8))


def write_acdc(root, patients=5, test=1):
    for number in range(1, patients + 1):
        write_patient(root / "training" / f"patient{number:03d}", GROUPS[number % 5], size=(3 + number % 3, 12, 10))
    for number in range(101, 101 + test):
        write_patient(root / "testing" / f"patient{number:03d}")
    (root / "MANDATORY_CITATION.md").write_text("")
    return root


def write_isic(root, counts=(6, 0, 0), size=(20, 30)):
    """Writes training, validation and test images, with superpixels, attribution and licence."""
    rng = np.random.default_rng(0)
    number = 0
    for part, count in zip(("Training", "Validation", "Test"), counts, strict=True):
        images, masks = root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
        for folder in (images, masks) if count else ():
            folder.mkdir(parents=True)
            (folder / "ATTRIBUTION.txt").write_text("")
            (folder / "LICENSE").write_text("")
        for _ in range(count):
            number += 1
            Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(images / f"ISIC_{number:07d}.jpg")
            Image.new("RGB", size[::-1]).save(images / f"ISIC_{number:07d}_superpixels.png")
            Image.fromarray(mask(rng, size)).save(masks / f"ISIC_{number:07d}_segmentation.png")
    return root


def mask(rng, size):
    """Returns a mask with grey edges."""
    return rng.choice(np.array([0, 90, 127, 128, 255], np.uint8), size)


def write_cvc(root, frames=(1, 2, 3, 24, 25, 26, 27, 51), layout="tif", size=(16, 20)):
    """Writes frames as Original/N.tif, or PNG/Original/N.png; every second mask has three channels."""
    for frame in frames:
        rng = np.random.default_rng(frame)
        image, label = rng.integers(0, 256, (*size, 3)).astype(np.uint8), mask(rng, size)
        label = np.repeat(label[..., None], 3, -1) if frame % 2 else label
        for kind, picture in (("Original", image), ("Ground Truth", label)):
            folder = root / kind if layout == "tif" else root / "PNG" / kind
            folder.mkdir(parents=True, exist_ok=True)
            if layout == "tif":
                tifffile.imwrite(folder / f"{frame}.tif", picture)
            else:
                Image.fromarray(picture).save(folder / f"{frame}.png")
            # As macOS leaves them.
            (folder / f"._{frame}.{layout}").write_bytes(b"")
    return root


def write_btcv(root, numbers=(1, 2, 5, 6, 7, 9, 10), test=(61,), size=(5, 14, 12)):
    for number in numbers:
        rng = np.random.default_rng(number)
        folder = root / "RawData" / "Training"
        write_nifti(folder / "img" / f"img{number:04d}.nii.gz", rng.integers(-1000, 1000, size).astype(np.int16))
        write_nifti(folder / "label" / f"label{number:04d}.nii.gz", rng.integers(0, 14, size).astype(np.uint8))
    for number in test:
        rng = np.random.default_rng(number)
        file = root / "RawData" / "Testing" / "img" / f"img{number:04d}.nii.gz"
        write_nifti(file, rng.integers(-1000, 1000, size).astype(np.int16))
    return root


def transunet_volume(number, size=(4, 12, 10)):
    rng = np.random.default_rng(number)
    return rng.random(size).astype(np.float32), rng.integers(0, 9, size).astype(np.float32)


def write_transunet(root, training=(5, 6, 7), test=(1,)):
    for folder in ("train_npz", "test_vol_h5"):
        (root / folder).mkdir(parents=True)
    for number in training:
        for index, (image, label) in enumerate(zip(*transunet_volume(number), strict=True)):
            np.savez(root / "train_npz" / f"case{number:04d}_slice{index:03d}.npz", image=image, label=label)
    for number in test:
        image, label = transunet_volume(number)
        with h5py.File(root / "test_vol_h5" / f"case{number:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = image, label
    return root


WRITERS = {
    "acdc": write_acdc,
    "isic2018": write_isic,
    "cvc-clinicdb": write_cvc,
    "synapse": write_btcv,
    "transunet": write_transunet,
}


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Returns every path below a folder, with the bytes of files."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@dataclass(frozen=True)
class KillsItsProcess(Case):
    """A case that no process survives; here, as workers must be able to import it."""

    def read(self) -> Content:
        os._exit(9)
