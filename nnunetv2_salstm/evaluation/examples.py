"""The cases that a method improved or worsened most, as slices to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_salstm.evaluation.results import Results
from nnunetv2_salstm.evaluation.scoring import Case, Scoring
from nnunetv2_salstm.host.errors import BadFile
from nnunetv2_salstm.host.geometry import in_place
from nnunetv2_salstm.host.label_maps import read_grey, read_label_map

EXAMPLES = 3
# Voxels around the labels.
MARGIN = 12


@dataclass(frozen=True)
class Example:
    """A case in which a method differs from the baseline, in the slice in which their predictions differ most.

    Attributes:
        method, case: which.
        ours, theirs: Dice of the method and of the baseline.
        place: number of the slice, from 1, and of all slices.
        image: grey values, (H, W); zeros where there is no image.
        window: grey values shown as black and as white.
        reference, prediction, baseline: masks (H, W) by label, of the reference, the method and the baseline.
        pixel: edge lengths along H and W in mm.
    """

    method: str
    case: str
    ours: float
    theirs: float
    place: tuple[int, int]
    image: np.ndarray
    window: tuple[float, float]
    reference: dict[str, np.ndarray]
    prediction: dict[str, np.ndarray]
    baseline: dict[str, np.ndarray]
    pixel: tuple[float, float]


def find_examples(
    results: Results,
    first_runs: Mapping[str, str],
    cases: Mapping[tuple[str, str], Case],
    images: Mapping[str, Path],
    scoring: Scoring,
) -> list[Example]:
    """Returns the most improved and most worsened cases of each method, in this order.

    Args:
        results: of all methods.
        first_runs: the run of each method that is shown.
        cases: files by run and case.
        images: an image for each case; cases without one are shown on black.
        scoring: labels, and how files are read.
    """
    found = []
    for method in results.methods[1:]:
        pairs = results.pairs(method, results.all_labels[0], "dice").sort_index()
        gains = (pairs["ours"] - pairs["theirs"]).sort_values(ascending=False, kind="stable")
        chosen = [*gains[gains > 0].index[:EXAMPLES], *gains[gains < 0].index[::-1][:EXAMPLES]]
        for case in chosen:
            files = [cases[first_runs[name], case] for name in (results.baseline, method)]
            ours, theirs = (float(pairs.loc[case, side]) for side in ("ours", "theirs"))
            found.append(_read(method, case, (ours, theirs), files, images.get(case), scoring))
    return found


def _read(
    method: str, case: str, dice: tuple[float, float], pair: Sequence[Case], image_file: Path | None, scoring: Scoring
) -> Example:
    in_world = read_label_map(pair[0].reference, scoring.reader)
    reference, spacing = in_world.values, in_world.geometry.spacing
    theirs, ours = (
        in_place(read_label_map(files.prediction, scoring.reader), in_world, files.prediction) for files in pair
    )
    image = np.zeros(reference.shape)
    if image_file is not None:
        try:
            image = in_place(read_grey(image_file, scoring.reader), in_world, image_file, ("image", "reference"))
        except BadFile as error:
            print(f"The page shows {case} without its image: {error}")
    # The first runs can agree where the means over the seeds do not.
    shown = theirs != ours if (theirs != ours).any() else reference != 0
    z = int(shown.sum(axis=(1, 2)).argmax())
    labelled = np.argwhere(reference[z].astype(bool) | theirs[z].astype(bool) | ours[z].astype(bool))
    # A slice without any label is shown whole.
    low, high = (labelled.min(axis=0), labelled.max(axis=0)) if len(labelled) else (np.zeros(2, int), shown.shape[1:])
    window = tuple(slice(max(int(a) - MARGIN, 0), int(b) + MARGIN + 1) for a, b in zip(low, high, strict=True))
    masks = [_masks(segmentation[z][window], scoring) for segmentation in (reference, ours, theirs)]
    return Example(
        method,
        case,
        *dice,
        (z + 1, len(reference)),
        np.asarray(image[z][window], float),
        (float(image.min()), float(np.percentile(image, 99.5)) or 1.0),
        masks[0],
        masks[1],
        masks[2],
        (spacing[1], spacing[0]),
    )


def _masks(segmentation: np.ndarray, scoring: Scoring) -> dict[str, np.ndarray]:
    return {label: np.isin(segmentation, values) for label, values in scoring.labels.values.items()}
