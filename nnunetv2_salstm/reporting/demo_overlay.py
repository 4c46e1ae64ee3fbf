"""A figure of a prediction over its image and reference."""

from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunetv2_salstm.converters.phantom import STRUCTURES

# Told apart also by readers who see red and green alike.
COLORS = {"RV": "#56b4e9", "MYO": "#f0e442", "LV": "#e8501e"}
SLICES = 4


def draw_overlay(image_file: Path, reference_file: Path, prediction_file: Path, title: str, figure_file: Path) -> None:
    """Draws slices from base to apex of the reference, each plain above and with both segmentations below it, as a PNG.

    Axes are in mm, so that pixels keep their shape.

    Raises:
        OSError: if the figure cannot be written.
    """
    image = sitk.ReadImage(str(image_file))
    width, height = image.GetSpacing()[0] * image.GetWidth(), image.GetSpacing()[1] * image.GetHeight()
    volume, reference, prediction = (
        sitk.GetArrayFromImage(loaded)
        for loaded in (image, sitk.ReadImage(str(reference_file)), sitk.ReadImage(str(prediction_file)))
    )
    labelled = np.flatnonzero(reference.any((1, 2)))
    chosen = labelled[np.linspace(0, len(labelled) - 1, min(SLICES, len(labelled))).round().astype(int)]
    # nnU-Net's own plots change the global style.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(2.6 * len(chosen), 6.2), layout="constrained")
        axes = figure.subplots(2, len(chosen), sharex=True, sharey=True, squeeze=False)
        x = (np.arange(volume.shape[2]) + 0.5) * width / volume.shape[2]
        y = (np.arange(volume.shape[1]) + 0.5) * height / volume.shape[1]
        for column, z in enumerate(chosen):
            for axis in axes[:, column]:
                grey = {"cmap": "gray", "vmin": 0, "vmax": np.percentile(volume, 99.5)}
                axis.imshow(volume[z], extent=(0, width, height, 0), interpolation="nearest", **grey)
            axes[0, column].set_title(f"slice {z + 1} of {len(volume)}", fontsize=10)
            for name, label in STRUCTURES.items():
                tint = np.zeros((*volume[z].shape, 4))
                tint[prediction[z] == label] = to_rgba(COLORS[name], 0.45)
                axes[1, column].imshow(tint, extent=(0, width, height, 0), interpolation="nearest")
                if (reference[z] == label).any():
                    outline = (reference[z] == label).astype(float)
                    axes[1, column].contour(x, y, outline, levels=[0.5], colors=[COLORS[name]], linewidths=1.6)
            axes[1, column].set_xlabel("mm")
        for axis in axes[:, 0]:
            axis.set_ylabel("mm")
        figure.suptitle(title)
        handles: list[Line2D | Patch] = [Line2D([], [], color="black", label="line: reference")]
        handles.append(Patch(facecolor="black", alpha=0.45, label="area: prediction"))
        handles += [Patch(facecolor=COLORS[name], label=name) for name in STRUCTURES]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(figure_file, format="png", dpi=120)
