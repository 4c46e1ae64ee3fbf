"""ACDC: short-axis cine MRI of 150 hearts, labelled at end-diastole and end-systole."""

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
from nnunetv2_salstm.converters.volumes import ENDING, volume_cases, volume_files
from nnunetv2_salstm.host.files import read_text

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
_MAPPING = {value: value for value in LABELS.values()}
GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")
_PATIENT = re.compile(r"patient\d{3}")


def find(folder: Path, neighbours: int = 0) -> Collection:
    """Finds the cases: two frames of each patient.

    Args:
        folder: the official one.
        neighbours: 1 for the previous and next slice as further channels.

    Raises:
        SalstmError: if the folder has no training patients.
    """
    # The folder of the training patients itself will do, but test patients are not trained on by mistake.
    above = [path for path in (folder / "training", folder) if _patients(path) and path.resolve().name != "testing"]
    if not above:
        raise not_the_dataset(folder, "ACDC", "training/patient001/, ... (and testing/)")
    problems: list[str] = []
    cases: list[tuple[Case, Path]] = []
    for part, test in ((above[0], False), (folder / "testing", True)):
        patients = _patients(part)
        read_elsewhere = [folder / "training", folder / "testing"]
        problems += left_over(part, [*patients, *read_elsewhere], "a patient's folder must be patient and three digits")
        for patient in patients:
            cases += _cases(patient, test, bool(neighbours), problems)
    return Collection(
        name="ACDC",
        licence="CC BY-NC-SA 4.0",
        reference="https://www.creatis.insa-lyon.fr/Challenge/acdc/",
        channels=("cineMRI",),
        labels=LABELS,
        file_ending=ENDING,
        grouping="patient",
        cases=without_duplicates(cases, problems),
        problems=problems,
        options={"neighbours": neighbours},
    )


def _patients(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir() and _PATIENT.fullmatch(path.name)]


def _cases(patient: Path, test: bool, neighbours: bool, problems: list[str]) -> list[tuple[Case, Path]]:
    try:
        frames, group = _read_info(patient / "Info.cfg", test)
    except (OSError, ValueError) as error:
        problems.append(f"{patient / 'Info.cfg'}: {error}")
        return []
    cases: list[tuple[Case, Path]] = []
    for frame in frames:
        name = f"{patient.name}_frame{frame:02d}"
        images, labels = volume_files(patient, name), volume_files(patient, f"{name}_gt")
        missing = [part for part, files in (("", images), ("_gt", labels)) if not files]
        # Older downloads have the test images only.
        if missing and not (test and images):
            problems += [
                f"{patient / f'{name}{part}{ENDING}'}: missing, but Info.cfg names frame {frame}" for part in missing
            ]
            continue
        cases += volume_cases(
            images, labels, name=name, group=patient.name, stratum=group, test=test, mapping=_MAPPING,
            neighbours=neighbours,
        )  # fmt: skip
    return cases


def _read_info(file: Path, test: bool) -> tuple[tuple[int, int], str]:
    """Returns the frames of end-diastole and end-systole, and the patient's group.

    Raises:
        ValueError: if one of them is not there.
    """
    if not file.is_file():
        raise ValueError("missing; it names the frames and the group")
    lines = (line.partition(":") for line in read_text(file).splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    frames = [values.get(key, "nothing") for key in ("ED", "ES")]
    if not all(frame.isdecimal() for frame in frames) or int(frames[0]) == int(frames[1]):
        raise ValueError(f"ED and ES must be two frame numbers, got {frames[0]} and {frames[1]}")
    group = values.get("Group", "nothing")
    # The folds are balanced over the groups; test cases are in no fold.
    if group not in GROUPS and not test:
        raise ValueError(f"Group must be one of {', '.join(GROUPS)}, got {group}")
    return (int(frames[0]), int(frames[1])), group
