"""A demo: its table, what it means, and a picture of each network's prediction."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from nnunetv2_salstm.reporting.document import Bullets, Document, Figure, Section, Table, Text, made_with
from nnunetv2_salstm.reporting.overlays import Overlay, draw_overlays

SLICES = 4
COUNTS = {"parameters": ",", "ratio": ".2f", "s / iteration": ".2f"}


def demo_document(
    frame: pandas.DataFrame,
    pictures: Mapping[str, bytes],
    trainers: Mapping[str, str],
    *,
    test_cases: int,
    epochs: int,
    iterations: int,
    about: Mapping[str, str],
    command: str,
    versions: Mapping[str, str | int],
) -> Document:
    """Returns the document about a demo.

    Args:
        frame: a row for each network: network, Dice by structure, mean, s / iteration, parameters, ratio.
        pictures: by network, an overlay of one test case, PNG.
        trainers: by network, its trainer.
        test_cases, epochs, iterations: how much was trained and tested.
        about: what else there is to say, by name.
        command: that made it.
        versions: and hardware, it was made with.
    """
    dice = [str(name) for name in frame if name not in ("network", *COUNTS)]
    caveat = (
        f"Dice: nnU-Net's, mean over {test_cases} test phantoms, after {epochs} epochs of {iterations} iterations. So "
        "short a training on phantoms shows that everything works. It says nothing about accuracy on real data, and "
        "differences between the rows are noise. Seconds per iteration: median epoch time in nnU-Net's log divided by "
        "the training iterations; it includes the epoch's validation and the augmentation, and varies with what else "
        "the machine does."
    )
    figures = [
        Figure(
            png=picture,
            caption=f"{name}: a test case, the reference as lines and the prediction as areas.",
            file=f"overlay_{trainers[name]}.png",
        )
        for name, picture in pictures.items()
    ]
    return Document(
        "nnUNetv2_salstm demo",
        [
            Table(frame, formats={**dict.fromkeys(dice, ".3f"), **COUNTS}),
            Text(caveat),
            Section("Predictions", figures),
            Section(
                "How it was made",
                [
                    Bullets([f"{name}: `{trainer}`" for name, trainer in trainers.items()]),
                    Bullets([f"{name}: {value}" for name, value in about.items()]),
                ],
                folded=True,
            ),
        ],
        made_with(command, versions),
    )


def draw_prediction(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    structures: Mapping[str, int],
    pixel: Sequence[float],
    title: str,
) -> bytes:
    """Returns slices from base to apex, each plain above and with both segmentations below it, as a PNG.

    Args:
        image, reference, prediction: (D, H, W).
        structures: labels by name.
        pixel: edge lengths along H and W, in mm.
        title: above all.
    """
    labelled = np.flatnonzero(reference.any((1, 2)))
    chosen = labelled[np.linspace(0, len(labelled) - 1, min(SLICES, len(labelled))).round().astype(int)]
    size, window = (pixel[0], pixel[1]), (0.0, float(np.percentile(image, 99.5)))
    plain = [Overlay(image[z], f"slice {z + 1} of {len(image)}", pixel=size, window=window) for z in chosen]
    segmented = [
        Overlay(
            image[z],
            areas={name: prediction[z] == label for name, label in structures.items()},
            outlines={name: reference[z] == label for name, label in structures.items()},
            pixel=size,
            window=window,
        )
        for z in chosen
    ]
    return draw_overlays([plain, segmented], list(structures), title)
