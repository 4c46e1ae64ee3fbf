"""Metrics of one segmentation against its reference, label by label."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Metric:
    """What a metric is called, its unit, and its best value: 1 (more is better) or 0 (less is)."""

    title: str
    unit: str
    best: float


# By their names in JSON and CSV.
METRICS = {
    "dice": Metric("Dice", "", 1),
    "iou": Metric("IoU", "", 1),
    "hd95": Metric("HD95", "mm", 0),
    "nsd": Metric("surface Dice", "", 1),
    "volume_error": Metric("volume error", "", 0),
}
# Those of surfaces are MONAI's, and take most of the time.
SURFACE = ("hd95", "nsd")


@dataclass(frozen=True)
class Labels:
    """The structures that are scored: their names, the values that make them up, and the value that is ignored.

    Attributes:
        values: for each name one value, or several for a region.
        ignore: value of reference voxels that do not count, or None.
    """

    values: dict[str, tuple[int, ...]]
    ignore: int | None = None

    @classmethod
    def of_dataset(cls, dataset_json: Mapping[str, Any]) -> "Labels":
        """Returns the foreground labels or regions of an nnU-Net dataset.json."""
        labels = dict(dataset_json["labels"])
        ignore = labels.pop("ignore", None)
        values = {
            name: tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),)
            for name, value in labels.items()
        }
        return cls({name: value for name, value in values.items() if value != (0,)}, ignore)

    def known(self) -> set[int]:
        """Returns every value that a segmentation may have."""
        ignored = set() if self.ignore is None else {self.ignore}
        return {0, *ignored, *(value for values in self.values.values() for value in values)}


@dataclass(frozen=True)
class Scores:
    """Metrics of one label in one case.

    With neither reference nor prediction, everything is undefined: None. With only one of them, Dice, IoU and NSD are 0
    and HD95 is infinite; so is the volume error without a reference.

    Attributes:
        dice: 2 |P R| / (|P| + |R|), of the voxels P of the prediction and R of the reference.
        iou: |P R| / |P + R|.
        hd95: 95th percentile of the distances of the surfaces' voxels, the larger of both directions, in mm.
        nsd: normalised surface Dice (Nikolov et al. 2021): share of both surfaces, by area, within the tolerance.
        volume_error: (|P| - |R|) / |R|.
        reference_voxels, predicted_voxels: |R| and |P|.
    """

    dice: float | None
    iou: float | None
    hd95: float | None
    nsd: float | None
    volume_error: float | None
    reference_voxels: int
    predicted_voxels: int


def score(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, ...],
    labels: Labels,
    tolerances: Mapping[str, float] | None,
) -> dict[str, Scores]:
    """Returns the scores of every label.

    Args:
        prediction: values of the voxels, (*S).
        reference: likewise, of the same shape.
        spacing: edge lengths of a voxel in mm, one for each axis. Axes of one voxel have no surface distance.
        labels: what to score. Voxels that the reference ignores are background in both.
        tolerances: mm within which surfaces agree, for each label; None for no HD95 and NSD, which need MONAI.
    """
    counts = True if labels.ignore is None else reference != labels.ignore
    flat = tuple(axis for axis, size in enumerate(reference.shape) if size == 1)
    edges = tuple(edge for edge, size in zip(spacing, reference.shape, strict=True) if size > 1)
    found = {}
    for name, values in labels.values.items():
        ours, theirs = (np.isin(image, values) & counts for image in (prediction, reference))
        tolerance = None if tolerances is None else tolerances[name]
        found[name] = _score_label(ours.squeeze(flat), theirs.squeeze(flat), edges, tolerance)
    return found


def _score_label(ours: np.ndarray, theirs: np.ndarray, spacing: tuple[float, ...], tolerance: float | None) -> Scores:
    predicted, expected = int(ours.sum()), int(theirs.sum())
    if not predicted and not expected:
        return Scores(None, None, None, None, None, 0, 0)
    if not predicted or not expected:
        volume_error = float("inf") if not expected else -1.0
        hd95, nsd = (None, None) if tolerance is None else (float("inf"), 0.0)
        return Scores(0.0, 0.0, hd95, nsd, volume_error, expected, predicted)
    common = int((ours & theirs).sum())
    hd95, nsd = (None, None) if tolerance is None else _surface_scores(ours, theirs, spacing, tolerance)
    return Scores(
        dice=2 * common / (predicted + expected),
        iou=common / (predicted + expected - common),
        hd95=hd95,
        nsd=nsd,
        volume_error=(predicted - expected) / expected,
        reference_voxels=expected,
        predicted_voxels=predicted,
    )


def _surface_scores(
    ours: np.ndarray, theirs: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    if ours.ndim not in (2, 3):
        raise ValueError(f"surface distances need 2 or 3 axes of more than one voxel, got the shape {ours.shape}")
    # Surfaces are local: a box around both masks gives the same and saves time.
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(ours | theirs))
    y_pred, y = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (ours, theirs))
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that only itself passes.
        warnings.filterwarnings("ignore", "monai.*always_return_as_numpy", FutureWarning)
        hd95 = compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(y_pred, y, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True)
    return hd95.item(), nsd.item()
