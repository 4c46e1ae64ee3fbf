"""Where the modules act: the size of their contributions in one slice of a case."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2_salstm.evaluation.probe import Probe
from nnunetv2_salstm.host.models import Model, TilePredictor


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


def fullest_slice(predictor: TilePredictor) -> int:
    """Returns the slice with the largest predicted foreground, the middle one without any."""
    segmentation = torch.as_tensor(predictor.label_manager.convert_logits_to_segmentation(predictor.logits))
    foreground = (segmentation > 0).flatten(1).sum(1)
    return int(foreground.argmax()) if foreground.any() else len(foreground) // 2


def contribution_maps(
    model: Model, predictor: TilePredictor, probe: Probe, pixel: tuple[float, float], z: int
) -> ContributionMaps:
    """Returns the maps in slice z of the case that was predicted last."""
    _, depth, *plane = predictor.data.shape
    maps = {
        stage: stitch(probe.maps(stage), predictor.slicers, model.cell(stage), plane, z).numpy()
        for stage in probe.blocks
    }
    return ContributionMaps(predictor.data[0, z].float().cpu().numpy(), maps, z, depth, pixel)


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
