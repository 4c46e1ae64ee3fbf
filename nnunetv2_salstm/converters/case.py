"""What converters have in common: a case that reads itself, and a collection of cases found in a folder."""

import re
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunetv2_salstm.host.errors import SalstmError, listed
from nnunetv2_salstm.host.geometry import Geometry
from nnunetv2_salstm.host.label_maps import require_labels, whole_numbers

# What lies beside the cases of a data set: licences, citations, tables, archives, what file managers leave.
_BESIDES = (
    *(".txt", ".md", ".rst", ".pdf", ".htm", ".html", ".doc", ".docx", ".csv", ".tsv", ".xls", ".xlsx", ".json"),
    *(".xml", ".yaml", ".cfg", ".ini", ".db", ".md5", ".sha256", ".zip", ".tar", ".tar.gz", ".tgz", ".rar", ".7z"),
)


@dataclass(frozen=True)
class Content:
    """A case in memory: volumes (D, H, W) with their geometry, or pictures (H, W, 3) without one.

    Args:
        images: one for each file that nnU-Net reads, all of one size.
        label: (D, H, W) or (H, W), None for a test case without one.
        geometry: None for pictures.
        remarks: what was mended, in words that are the same for all cases that it is true of.
    """

    images: tuple[NDArray, ...]
    label: NDArray[np.uint8] | None
    geometry: Geometry | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case(ABC):
    """A case of nnU-Net's dataset.

    Args:
        name: nnU-Net's case identifier.
        group: patient or sequence; a group is never divided between training and validation.
        stratum: what the folds are balanced over, e.g. the disease.
        test: belongs to imagesTs, not imagesTr.
    """

    name: str
    group: str
    stratum: str
    test: bool

    @abstractmethod
    def read(self) -> Content:
        """Reads and checks the case's files.

        Raises:
            BadFile: if one cannot be read or breaks a rule.
        """


@dataclass(frozen=True)
class Collection:
    """What was found in the official folder of a data set, and how nnU-Net's dataset.json describes it.

    Args:
        name: of nnU-Net's dataset, without its number.
        channels: of one slice or frame; nnU-Net chooses the normalisation by these names.
        grouping: what the groups of the cases are, in the singular.
        cases: all that are complete.
        problems: why other cases are not, each naming a file and a rule.
        remarks: sentences for the summary.
        options: what else decides on the result, JSON values; with neighbours, those of the previous and the next slice
            or frame follow the channels.
    """

    name: str
    licence: str
    reference: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    file_ending: str
    grouping: str
    cases: list[Case]
    problems: list[str]
    remarks: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def neighbours(self) -> bool:
        """Whether every case has the previous and the next slice or frame, too."""
        return bool(self.options.get("neighbours"))


def map_labels(values: NDArray, mapping: Mapping[int, int], file: Path) -> NDArray[np.uint8]:
    """Returns the labels that a mapping makes of the values of a file.

    Raises:
        BadFile: if there is a value that the mapping does not have.
    """
    values = whole_numbers(values, file)
    require_labels(values, mapping, file)
    table = np.zeros(max(mapping) + 1, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return table[values]


def count_values(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how often each value from 0 to 255 occurs."""
    # Slice by slice, as bincount makes an eight times larger copy.
    return np.sum([np.bincount(part.ravel(), minlength=256) for part in labels], axis=0)


def without_duplicates(cases: Iterable[tuple[Case, Path]], problems: list[str]) -> list[Case]:
    """Returns the cases, found with these files, in the order of their names.

    A name that occurs more than once is a problem: which of them is meant is not known, so that none is returned.
    """
    found: dict[str, list[tuple[Case, Path]]] = {}
    for case, file in cases:
        found.setdefault(case.name, []).append((case, file))
    for name, same in found.items():
        if len(same) > 1:
            files = " and ".join(str(file) for _, file in same)
            problems.append(f"{files}: {name} must be there once, got {len(same)}; remove all but one")
    return [same[0][0] for _, same in sorted(found.items()) if len(same) == 1]


def entries(folder: Path) -> list[Path]:
    """Returns what is in a folder, sorted, without hidden files such as macOS leaves; nothing if there is no folder.

    Raises:
        SalstmError: if it cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise SalstmError(f"{folder} cannot be read: {error.strerror}") from None


def left_over(folder: Path, known: Container[Path], rule: str) -> list[str]:
    """Returns a problem for each file or folder in a folder that is not known, but for documents and archives.

    Args:
        folder: of the data set.
        known: what the converter reads, or leaves out for a reason of its own.
        rule: what the names must be.
    """
    return [
        f"{path}: {rule}, got {path.name}{'/' if path.is_dir() else ''}"
        for path in entries(folder)
        if path not in known and (path.is_dir() or (path.suffix and not path.name.lower().endswith(_BESIDES)))
    ]


def by_key(folder: Path, pattern: str, rule: str, problems: list[str]) -> dict[str, list[Path]]:
    """Returns the files of a folder by what the group of a pattern finds in their names; of each there should be one.

    A file whose name is not so, and that is no document, is a problem that names the rule.
    """
    matches = {file: match for file in entries(folder) if (match := re.fullmatch(pattern, file.name))}
    problems += left_over(folder, matches, rule)
    found: dict[str, list[Path]] = {}
    for file, match in matches.items():
        found.setdefault(match[1], []).append(file)
    return found


def one_mask(masks: list[Path], image: Path, expected: Path, what: str, problems: list[str]) -> Path | None:
    """Returns the mask of an image; None, and a problem, if there is none where one is expected, or more than one."""
    if len(masks) == 1:
        return masks[0]
    problems.append(
        f"{' and '.join(map(str, masks))}: there must be one mask of {what}; remove all but one"
        if masks
        else f"{expected}: missing, the mask of {image.name}"
    )
    return None


def not_the_dataset(folder: Path, what: str, expected: str) -> SalstmError:
    """Returns the error for a folder that is not the official one."""
    names = [path.name + "/" * path.is_dir() for path in entries(folder)]
    there = listed(names, 8) or "nothing"
    return SalstmError(f"-i {folder} must be the folder of {what}, with {expected}; found {there}")
