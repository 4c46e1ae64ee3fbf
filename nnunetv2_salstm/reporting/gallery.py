"""Pictures of the cases that an arm improved or worsened most."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from nnunetv2_salstm.evaluation.results import Results
from nnunetv2_salstm.evaluation.scoring import Case, Scoring
from nnunetv2_salstm.page import new_figure, plain_style

EXAMPLES = 3
# Voxels around the labels.
MARGIN = 12
# Okabe and Ito's, told apart also by readers who see red and green alike.
LABEL_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


@dataclass(frozen=True)
class Example:
    """A case in which an arm differs from the baseline.

    Attributes:
        arm, case: which.
        ours, theirs: Dice of the arm and of the baseline.
        picture: PNG.
    """

    arm: str
    case: str
    ours: float
    theirs: float
    picture: bytes

    @property
    def element(self) -> str:
        """The picture as an element for a page."""
        data = base64.b64encode(self.picture).decode()
        return f'<img alt="{self.case}" src="data:image/png;base64,{data}">'


def draw_gallery(
    results: Results, cases: Mapping[tuple[str, str], Case], images: Mapping[str, Path], scoring: Scoring
) -> list[Example]:
    """Returns the most improved and most worsened cases of each arm, in this order.

    Args:
        results: of all arms.
        cases: files by run and case.
        images: an image for each case; cases without one are drawn on black.
        scoring: labels, and how files are read.
    """
    label = results.all_labels[0]
    examples = []
    for arm in results.arms[1:]:
        ours, theirs = results.pairs(arm.name, label, "dice")
        gains = {case: ours[case] - theirs[case] for case in theirs}
        shared = sorted(gains, key=lambda case: (-gains[case], case))
        chosen = [case for case in shared[:EXAMPLES] if gains[case] > 0]
        chosen += [case for case in shared[::-1][:EXAMPLES] if gains[case] < 0]
        for case in chosen:
            pair = [cases[run.name, case] for run in (results.arms[0].runs[0], arm.runs[0])]
            titles = [
                f"{results.short[name]}: {values[case]:.3f}"
                for name, values in ((results.baseline, theirs), (arm.name, ours))
            ]
            picture = _draw(pair, titles, images.get(case), scoring)
            examples.append(Example(arm.name, case, ours[case], theirs[case], picture))
    return examples


@plain_style
def _draw(pair: Sequence[Case], titles: Sequence[str], image_file: Path | None, scoring: Scoring) -> bytes:
    """Draws image, reference and both predictions in the slice in which the predictions differ most."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    reader = recursive_find_reader_writer_by_name(scoring.reader)()
    reference, properties = reader.read_seg(str(pair[0].reference))
    theirs, ours = (reader.read_seg(str(case.prediction))[0][0] for case in pair)
    reference = reference[0]
    image = np.zeros(reference.shape) if image_file is None else reader.read_images([str(image_file)])[0][0]
    # The first runs can agree where the means over the seeds do not.
    shown = theirs != ours if (theirs != ours).any() else reference != 0
    z = int(shown.sum(axis=(1, 2)).argmax())
    labelled = np.argwhere(reference[z].astype(bool) | theirs[z].astype(bool) | ours[z].astype(bool))
    low = np.maximum(labelled.min(axis=0) - MARGIN, 0)
    high = labelled.max(axis=0) + MARGIN + 1
    window = slice(low[0], high[0]), slice(low[1], high[1])
    grey = {"cmap": "gray", "vmin": float(image.min()), "vmax": float(np.percentile(image, 99.5)) or 1.0}
    aspect = float(properties["spacing"][1]) / float(properties["spacing"][2])
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # nnU-Net's own plots change the global style
        figure = new_figure(12, 3.9)
        panels = zip(
            figure.subplots(1, 4), ("image", "reference", *titles), (None, reference, theirs, ours), strict=True
        )
        for axes, title, segmentation in panels:
            axes.imshow(image[z][window], aspect=aspect, interpolation="nearest", **grey)
            if segmentation is not None:
                axes.imshow(_tint(segmentation[z][window], scoring), aspect=aspect, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
        figure.suptitle(f"{pair[0].name}, slice {z + 1} of {len(reference)}", fontsize=10)
        handles = [Patch(facecolor=_colour(place), label=name) for place, name in enumerate(scoring.labels.values)]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False, fontsize=9
        )
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _tint(segmentation: np.ndarray, scoring: Scoring) -> np.ndarray:
    """Returns a transparent colour for each pixel; of regions that overlap, the later ones lie on top."""
    tint = np.zeros((*segmentation.shape, 4))
    for place, values in enumerate(scoring.labels.values.values()):
        tint[np.isin(segmentation, values)] = to_rgba(_colour(place), 0.55)
    return tint


def _colour(place: int) -> str:
    return LABEL_COLOURS[place % len(LABEL_COLOURS)]
