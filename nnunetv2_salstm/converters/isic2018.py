"""ISIC 2018, task 1: dermoscopic images of skin lesions with masks."""

import re
from pathlib import Path

from nnunetv2_salstm.converters.case import Case, Collection, entries, not_the_dataset, without_duplicates
from nnunetv2_salstm.converters.pictures import ENDING, RGB, PictureCase

_IMAGE = re.compile(r"ISIC_\d{7}")
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
    # Next to the pictures are superpixels, attributions and the licence.
    for file in entries(images):
        if file.suffix.lower() not in _SUFFIXES or file.stem.endswith("_superpixels"):
            continue
        if not _IMAGE.fullmatch(file.stem):
            problems.append(f"{file}: an image's name must be ISIC_ and seven digits")
            continue
        mask = masks / f"{file.stem}_segmentation.png"
        if labelled and not mask.is_file():
            problems.append(f"{mask}: missing, the mask of {file.name}")
            continue
        case = PictureCase(file.stem, file.stem, "", test, (file,), mask if labelled else None, max_size)
        cases.append((case, file))
    known = {file.stem for file in entries(images)}
    for mask in entries(masks):
        name = mask.name.removesuffix("_segmentation.png")
        if name != mask.name and name not in known:
            problems.append(f"{mask}: a mask must have an image, {name}.jpg is missing in {images}")
    return cases
