"""A model that is watched while it predicts cases, and where its modules act: their contributions in one slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2_salstm.evaluation.inspection import ModelFindings
from nnunetv2_salstm.evaluation.probe import Probe
from nnunetv2_salstm.host.cases import Case, preprocess
from nnunetv2_salstm.host.models import Model, TilePredictor, make_predictor


@dataclass(frozen=True)
class ContributionMaps:
    """One slice of a case as a network sees it, and what its modules add there.

    Attributes:
        image: first channel, (H, W), preprocessed, padded to a patch at least.
        maps: (H, W) by stage, see `Probe.maps`.
        z, depth: which slice of how many, from 0.
        pixel: edge lengths of a pixel, along H and W, in mm.
    """

    image: np.ndarray
    maps: dict[int, np.ndarray]
    z: int
    depth: int
    pixel: tuple[float, float]


class Subject:
    """A model with what watches it and what was found in it.

    Args:
        model: read from its folder.
        label: its short name.
        device: to predict on.
        show_progress: whether nnU-Net shows its tiles.
    """

    def __init__(self, model: Model, label: str, device: str, show_progress: bool = False):
        self.model = model
        self.predictor = make_predictor(model, device, show_progress)
        self.probe = Probe(model.network)
        about = {
            "folder": str(model.folder),
            "trainer": model.trainer,
            "plans": model.plans.plans_name,
            "configuration": model.configuration_name,
            "fold": model.fold,
            "checkpoint": model.checkpoint,
        }
        self.findings = ModelFindings(label, about, model.salstm)

    def look_at(self, case: Case) -> None:
        """Runs the model on a case and keeps what was seen."""
        data, _ = preprocess(self.model, case)
        self.probe.clear()
        with self.probe.watching():
            self.predictor.predict_sliding_window_return_logits(data)
        self.findings.add(case.name, self.probe.numbers(), self.probe.matrices())

    def maps(self, z: int) -> ContributionMaps:
        """Returns the maps in slice z of the case that was predicted last."""
        _, depth, *plane = self.predictor.data.shape
        maps = {
            stage: stitch(self.probe.maps(stage), self.predictor.slicers, self.model.cell(stage), plane, z).numpy()
            for stage in self.probe.blocks
        }
        return ContributionMaps(self.predictor.data[0, z].float().cpu().numpy(), maps, z, depth, self.model.pixel)


def look_at(subjects: Sequence[Subject], case: Case) -> dict[str, ContributionMaps]:
    """Runs the models on a case and returns the maps of those with modules, by their labels."""
    for subject in subjects:
        subject.look_at(case)
    found = {}
    for subject in subjects:
        if subject.probe.blocks:
            # The same slice of both models where their preprocessing agrees.
            same = [s for s in subjects if s.predictor.data.shape == subject.predictor.data.shape]
            found[subject.findings.label] = subject.maps(fullest_slice(same[0].predictor))
    return found


def fullest_slice(predictor: TilePredictor) -> int:
    """Returns the slice with the largest predicted foreground, the middle one without any."""
    segmentation = torch.as_tensor(predictor.label_manager.convert_logits_to_segmentation(predictor.logits))
    foreground = (segmentation > 0).flatten(1).sum(1)
    return int(foreground.argmax()) if foreground.any() else len(foreground) // 2


def stitch(
    tiles: Sequence[Tensor], slicers: Sequence[Any], cell: tuple[int, ...], plane: Sequence[int], z: int
) -> Tensor:
    """Returns a map of slice z, (H, W), from those of tiles on a coarse grid; where tiles overlap, their mean.

    Args:
        tiles: (d, h, w) or, of tiles within a slice, (h, w).
        slicers: where each lies, as nnU-Net gives it: (channels, slice or slices, rows, columns).
        cell: edge lengths of a cell of the tiles' grid, in voxels.
        plane: (H, W).
        z: index of the slice.
    """
    total, count = torch.zeros(2, *plane)
    for tile, (_, slices, rows, columns) in zip(tiles, slicers, strict=True):
        if isinstance(slices, slice):
            if not slices.start <= z < slices.stop:
                continue
            tile = tile[(z - slices.start) // cell[0]]
        elif slices != z:
            continue
        for axis, (length, where) in enumerate(zip(cell[-2:], (rows, columns), strict=True)):
            # A cell at the far end may be smaller.
            tile = tile.repeat_interleave(length, axis).narrow(axis, 0, where.stop - where.start)
        total[rows, columns] += tile
        count[rows, columns] += 1
    mean: Tensor = total / count
    return mean
