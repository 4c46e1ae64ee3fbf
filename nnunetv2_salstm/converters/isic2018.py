"""ISIC 2018, task 1: dermoscopic images of skin lesions with masks."""

import re
from pathlib import Path

from nnunetv2_salstm.converters.case import (
    Case,
    Collection,
    by_key,
    entries,
    not_the_dataset,
    one_mask,
    without_duplicates,
)
from nnunetv2_salstm.converters.pictures import ENDING, RGB, PictureCase

_SUFFIXES = ".jpg, .jpeg, .png"
_SUFFIX = r"(?i:\.jpe?g|\.png)"
_MASK = r"(ISIC_\d{7})_(?i:segmentation\.png)"
_PARTS = ("Training", "Validation", "Test")


def find(folder: Path, max_size: int | None = None) -> Collection:
    """Finds the cases: a picture each.

    Args:
        folder: the official one.
        max_size: in pixels; images whose longer edge is longer shrink.

    Raises:
        SalstmError: if the folder has no training images with masks.
    """
    problems: list[str] = []
    cases: list[tuple[Case, Path]] = []
    for part in _PARTS:
        images, masks = folder / f"ISIC2018_Task1-2_{part}_Input", folder / f"ISIC2018_Task1_{part}_GroundTruth"
        if part == "Training" and not (entries(images) and entries(masks)):
            raise not_the_dataset(folder, "ISIC 2018, task 1", f"{images.name}/ and {masks.name}/")
        cases += _cases(images, masks, part != "Training", max_size, problems)
    return Collection(
        name="ISIC2018",
        licence="CC BY-NC 4.0",
        reference="https://challenge.isic-archive.com/data/#2018",
        channels=RGB,
        labels={"background": 0, "lesion": 1},
        file_ending=ENDING,
        grouping="image",
        cases=without_duplicates(cases, problems),
        problems=problems,
        remarks=["The challenge publishes no patient numbers: images of one patient may be in different folds."],
        options={"max_size": max_size},
    )


def _cases(images: Path, masks: Path, test: bool, max_size: int | None, problems: list[str]) -> list[tuple[Case, Path]]:
    # The challenge had published the test masks later: the folder may be absent, but not one mask in it.
    labelled = masks.is_dir() or not test
    cases: list[tuple[Case, Path]] = []
    pictures = by_key(images, rf"(.*){_SUFFIX}", f"an image must be one of {_SUFFIXES}", problems)
    mask_of = by_key(masks, _MASK, "a mask's name must be ISIC_, seven digits and _segmentation.png", problems)
    for name, files in pictures.items():
        # Beside the pictures are superpixels.
        if name.endswith("_superpixels"):
            continue
        if not re.fullmatch(r"ISIC_\d{7}", name):
            problems.append(f"{files[0]}: an image's name must be ISIC_ and seven digits")
            continue
        mask = None
        if labelled:
            expected = masks / f"{name}_segmentation.png"
            mask = one_mask(mask_of.get(name, []), files[0], expected, files[0].name, problems)
            if mask is None:
                continue
        cases += [(PictureCase(name, name, "", test, (file,), mask, max_size), file) for file in files]
    for name in sorted(mask_of.keys() - pictures.keys()):
        problems.append(f"{mask_of[name][0]}: a mask must have an image, {name}.jpg is missing in {images}")
    return cases
