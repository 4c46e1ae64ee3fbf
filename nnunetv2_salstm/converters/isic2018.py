"""ISIC 2018, task 1: dermoscopic images of skin lesions with masks."""

import re
from pathlib import Path

from nnunetv2_salstm.converters.case import (
    Case,
    Collection,
    entries,
    left_over,
    not_the_dataset,
    without_duplicates,
)
from nnunetv2_salstm.converters.pictures import ENDING, RGB, PictureCase

_IMAGE = re.compile(r"ISIC_\d{7}")
_MASK = re.compile(r"(ISIC_\d{7})_(?i:segmentation\.png)")
_SUFFIXES = (".jpg", ".jpeg", ".png")
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
    pictures = [file for file in entries(images) if file.suffix.lower() in _SUFFIXES]
    problems += left_over(images, pictures, f"an image must be one of {', '.join(_SUFFIXES)}")
    # Beside the pictures are superpixels.
    pictures = [file for file in pictures if not file.stem.endswith("_superpixels")]
    mask_of: dict[str, list[Path]] = {}
    for file in entries(masks):
        if match := _MASK.fullmatch(file.name):
            mask_of.setdefault(match[1], []).append(file)
    found = [file for files in mask_of.values() for file in files]
    problems += left_over(masks, found, "a mask's name must be ISIC_, seven digits and _segmentation.png")
    for file in pictures:
        if not _IMAGE.fullmatch(file.stem):
            problems.append(f"{file}: an image's name must be ISIC_ and seven digits")
            continue
        of_image = mask_of.get(file.stem, [])
        if labelled and len(of_image) != 1:
            problems.append(
                f"{' and '.join(map(str, of_image))}: there must be one mask of {file.name}; remove all but one"
                if of_image
                else f"{masks / f'{file.stem}_segmentation.png'}: missing, the mask of {file.name}"
            )
            continue
        mask = of_image[0] if labelled else None
        cases.append((PictureCase(file.stem, file.stem, "", test, (file,), mask, max_size), file))
    for name in sorted(mask_of.keys() - {file.stem for file in pictures}):
        problems.append(f"{mask_of[name][0]}: a mask must have an image, {name}.jpg is missing in {images}")
    return cases
