"""CVC-ClinicDB: 612 frames with polyps, of 29 colonoscopy video sequences."""

import bisect
from collections.abc import Mapping
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
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_table

# The first frame of each sequence; the last one ends with frame 612.
FIRST_FRAMES = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318),
    *(343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
LAST_FRAME = 612
_IMAGES, _MASKS = "Original", "Ground Truth"


def find(folder: Path, neighbours: int = 0, sequences: Path | None = None) -> Collection:
    """Finds the cases: a frame each.

    Args:
        folder: the official one.
        neighbours: 1 for the previous and next frame of the sequence as further channels.
        sequences: file of columns frame and sequence; None for the sequences of the data set.

    Raises:
        SalstmError: if the folder has no frames, or the file of sequences cannot be read.
    """
    candidates = [folder, folder / "PNG", folder / "TIF"]
    found = [path for path in candidates if entries(path / _IMAGES) and entries(path / _MASKS)]
    expected = f"{_IMAGES}/1.tif, ... and {_MASKS}/1.tif, ..., or these with 1.png, ... in PNG/"
    if not found:
        raise not_the_dataset(folder, "CVC-ClinicDB", expected)
    if len(found) > 1:
        raise SalstmError(f"-i {folder} has the frames twice; give one of {', '.join(map(str, found))}")
    given = None if sequences is None else _read_sequences(sequences)
    problems: list[str] = []
    images, masks = (_frames(found[0] / name, problems) for name in (_IMAGES, _MASKS))
    for frame in sorted(masks.keys() - images.keys()):
        problems.append(f"{masks[frame][0]}: a mask must have an image, frame {frame} is missing in {_IMAGES}")
    cases: list[tuple[Case, Path]] = []
    for frame, files in images.items():
        sequence = _sequence(frame, given)
        if sequence is None:
            where = f"from 1 to {LAST_FRAME}" if given is None else f"in {sequences}"
            problems.append(f"{files[0]}: a frame must be in a sequence, {frame} is not {where}")
            continue
        place = found[0] / _MASKS / files[0].name
        mask = one_mask(masks.get(frame, []), files[0], place, f"frame {frame}", problems)
        if mask is None:
            continue
        beside = [
            images[other][0] if len(images.get(other, [])) == 1 and _sequence(other, given) == sequence else None
            for other in ((frame - 1, frame + 1) if neighbours else ())
        ]
        for file in files:
            read = (file, *(neighbour or file for neighbour in beside))
            cases.append((PictureCase(f"frame{frame:03d}", sequence, "", False, read, mask), file))
    return Collection(
        name="CVC-ClinicDB",
        licence="research and education only",
        reference="https://polyp.grand-challenge.org/CVCClinicDB/",
        channels=RGB,
        labels={"background": 0, "polyp": 1},
        file_ending=ENDING,
        grouping="sequence",
        cases=without_duplicates(cases, problems),
        problems=problems,
        options={
            "neighbours": neighbours,
            "sequences": None if given is None else {str(frame): sequence for frame, sequence in given.items()},
        },
    )


def _frames(folder: Path, problems: list[str]) -> dict[int, list[Path]]:
    """Returns the files of each frame, of which there should be one."""
    frames: dict[int, list[Path]] = {}
    found = by_key(folder, r"(.*)(?i:\.tiff?|\.png)", "a frame must be one of .tif, .tiff, .png", problems)
    for name, files in found.items():
        if name.isdecimal():
            frames.setdefault(int(name), []).extend(files)
        else:
            problems += [f"{file}: the name must be a frame number, got {name}" for file in files]
    return dict(sorted(frames.items()))


def _sequence(frame: int, given: Mapping[int, str] | None) -> str | None:
    if given is not None:
        return given.get(frame)
    if not 1 <= frame <= LAST_FRAME:
        return None
    return f"sequence{bisect.bisect_right(FIRST_FRAMES, frame):02d}"


def _read_sequences(file: Path) -> dict[int, str]:
    try:
        columns, rows = read_table(file)
    except (OSError, ValueError) as error:
        raise SalstmError(f"--sequences {file} cannot be read: {error}") from None
    if not {"frame", "sequence"} <= set(columns):
        raise SalstmError(
            f"--sequences {file} must have the columns frame and sequence, got {', '.join(columns) or 'nothing'}"
        )
    sequences: dict[int, str] = {}
    for row, values in enumerate(rows, 1):
        frame, sequence = values["frame"], values["sequence"]
        if not frame.isdecimal() or not sequence or sequences.get(int(frame), sequence) != sequence:
            raise SalstmError(
                f"--sequences {file} must have each frame number once with its sequence, got {frame!r}, {sequence!r} "
                f"in row {row} below the names of the columns"
            )
        sequences[int(frame)] = sequence
    return sequences
