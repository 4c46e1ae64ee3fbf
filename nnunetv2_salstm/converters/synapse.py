"""Synapse multi-organ CT (BTCV): the official volumes, or the slices that TransUNet made of them."""

import importlib.util
from pathlib import Path
from typing import Any

from nnunetv2_salstm.converters.case import (
    Case,
    Collection,
    by_key,
    entries,
    not_the_dataset,
    without_duplicates,
)
from nnunetv2_salstm.converters.transunet import SliceFilesCase, VolumeFileCase
from nnunetv2_salstm.converters.volumes import ENDING, volume_cases
from nnunetv2_salstm.host.errors import SalstmError

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)
# TransUNet's choice, in its order.
EIGHT_ORGANS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
TRANSUNET_TEST_CASES = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)


def find(folder: Path, neighbours: int = 0, organs: int | None = None) -> Collection:
    """Finds the cases: a volume each.

    Args:
        folder: the official one, or TransUNet's.
        neighbours: 1 for the previous and next slice as further channels.
        organs: 8 or 13; None for all that the files have.

    Raises:
        SalstmError: if the folder has neither layout, or both, or h5py is missing for TransUNet's.
    """
    raw = [path for path in (folder, folder / "Training", folder / "RawData" / "Training") if _has_volumes(path)]
    preprocessed = entries(folder / "train_npz")
    if raw and preprocessed:
        raise SalstmError(f"-i {folder} has both the official volumes and train_npz/; give {raw[0]}, or move one away")
    if raw:
        return _find_volumes(folder, raw[0], neighbours, organs or len(ORGANS))
    if preprocessed:
        if organs == 13:
            raise SalstmError(
                f"--organs 13 needs the official volumes: {folder / 'train_npz'} has TransUNet's 8 organs"
            )
        return _find_slices(folder, neighbours)
    expected = "RawData/Training/img/img0001.nii.gz, ... and label/, or TransUNet's train_npz/ and test_vol_h5/"
    raise not_the_dataset(folder, "Synapse (BTCV)", expected)


def _collection(channel: str, neighbours: int, organs: int, **found) -> Collection:
    names = EIGHT_ORGANS if organs == 8 else ORGANS
    return Collection(
        name="Synapse",
        licence="the terms of use at synapse.org, syn3193805",
        reference="https://www.synapse.org/Synapse:syn3193805",
        channels=(channel,),
        labels={"background": 0, **{name: value for value, name in enumerate(names, 1)}},
        file_ending=ENDING,
        grouping="patient",
        options={"neighbours": neighbours, "organs": organs},
        **found,
    )


def _has_volumes(folder: Path) -> bool:
    return bool(entries(folder / "img") and entries(folder / "label"))


def _find_volumes(folder: Path, training: Path, neighbours: int, organs: int) -> Collection:
    beside = bool(neighbours)
    kept = EIGHT_ORGANS if organs == 8 else ORGANS
    mapping = {0: 0, **{value: kept.index(organ) + 1 if organ in kept else 0 for value, organ in enumerate(ORGANS, 1)}}
    problems: list[str] = []
    images, labels = (_by_number(training / name, problems) for name in ("img", "label"))
    for number in sorted(labels.keys() - images.keys()):
        problems.append(f"{labels[number][0]}: a mask must have an image, img{number}.nii.gz is missing in img/")
    cases: list[tuple[Case, Path]] = []
    for number, of_number in images.items():
        if number not in labels:
            problems.append(f"{training / 'label' / f'label{number}.nii.gz'}: missing, the mask of {of_number[0]}")
            continue
        test = organs == 8 and int(number) in TRANSUNET_TEST_CASES
        cases += volume_cases(of_number, labels[number], **_about(number, test), mapping=mapping, neighbours=beside)
    if organs == len(ORGANS):
        # The challenge keeps the labels of its test cases; TransUNet has its own among the labelled ones.
        testing = (folder if (folder / "Testing").is_dir() else folder / "RawData") / "Testing" / "img"
        for number, of_number in _by_number(testing, problems).items():
            cases += volume_cases(of_number, [], **_about(number, True), mapping={}, neighbours=beside)
    return _collection("CT", neighbours, organs, cases=without_duplicates(cases, problems), problems=problems)


def _about(number: str, test: bool) -> dict[str, Any]:
    return {"name": f"case{number}", "group": f"case{number}", "stratum": "", "test": test}


def _by_number(folder: Path, problems: list[str]) -> dict[str, list[Path]]:
    """Returns the files of each number, of which there should be one."""
    rule = f"the name must be {folder.name}, four digits and {ENDING} or .nii"
    return by_key(folder, rf"{folder.name}(\d{{4}})\.nii(?:\.gz)?", rule, problems)


def _find_slices(folder: Path, neighbours: int) -> Collection:
    problems: list[str] = []
    cases: list[tuple[Case, Path]] = []
    train = folder / "train_npz"
    found = by_key(train, r"(case\d{4})_slice\d{3}\.npz", "the name must be caseNNNN_sliceMMM.npz", problems)
    for name, slices in found.items():
        files = {int(file.stem[-3:]): file for file in slices}
        missing = [number for number in range(max(files)) if number not in files]
        if missing:
            problems.append(
                f"{train / f'{name}_slice{missing[0]:03d}.npz'}: missing; "
                f"the slices of a case must be numbered without a gap, {len(missing)} of {max(files) + 1} are not there"
            )
            continue
        stack = tuple(files[number] for number in range(len(files)))
        cases.append((SliceFilesCase(name, name, "", False, stack, bool(neighbours)), files[0]))
    test = folder / "test_vol_h5"
    for name, volumes in by_key(test, r"(case\d{4})\.npy\.h5", "the name must be caseNNNN.npy.h5", problems).items():
        cases.append((VolumeFileCase(name, name, "", True, volumes[0], bool(neighbours)), volumes[0]))
    if entries(test) and importlib.util.find_spec("h5py") is None:
        raise SalstmError('test_vol_h5/ is read with h5py; install it with: pip install "nnunetv2-salstm[convert]"')
    remark = "TransUNet's files have no spacing: 1 mm was written, so that distances are in voxels, not in mm."
    return _collection(
        "noNorm", neighbours, 8, cases=without_duplicates(cases, problems), problems=problems, remarks=[remark]
    )
