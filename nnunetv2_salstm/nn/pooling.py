"""Going to a coarse grid and back: means over the cells of a feature map, and adding one value to all voxels of a cell.

At full resolution memory traffic is what costs, and on the CPU sums over several axes at once. Hence one axis after the
other, the last one, which is slowest, on the smallest tensor; and additions that broadcast, not an upsampled copy.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_salstm.nn.precision import to_float32


def average_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Returns the means of x, (B, C, *S), over cells, (B, C, *ceil(S / stride)), in float32 at least.

    Args:
        x: (B, C, *S).
        stride: edge lengths of a cell in voxels, one for each spatial axis; cells at the far ends may be smaller.
    """
    if math.prod(stride) == 1:
        return to_float32(x)
    if any(_missing(x, stride)):
        voxels = _sum_pool(x.new_ones(1, 1, *x.shape[2:]), stride)
        return _sum_pool(x, stride) / voxels
    return _sum_pool(x, stride) / math.prod(stride)


def add_upsampled(x: Tensor, coarse: Tensor, stride: Sequence[int]) -> Tensor:
    """Returns x, (B, C, *S), in its dtype, with a value added to all voxels of each cell.

    Args:
        x: (B, C, *S).
        coarse: the values, (B, C, *ceil(S / stride)).
        stride: edge lengths of a cell in voxels, one for each spatial axis; cells at the far ends may be smaller.
    """
    if math.prod(stride) == 1:
        return x + coarse.to(x.dtype)
    if any(_missing(x, stride)):
        whole = add_upsampled(_pad(x, stride), coarse, stride)
        for axis, edge in enumerate(x.shape[2:], start=2):
            whole = whole.narrow(axis, 0, edge)
        return whole
    *outer, last = stride
    split, upsampled = x, _repeat(coarse, coarse.dim(), last).flatten(-2)  # (B, C, D, H, W), (B, C, d, h, W)
    for axis, length in reversed([*enumerate(outer, start=2)]):
        split, upsampled = split.unflatten(axis, (-1, length)), _repeat(upsampled, axis + 1, length)
    # Narrowed last, so that the gradients of a cell are summed in float32.
    return (split + upsampled.to(x.dtype)).reshape(x.shape)  # (B, C, d, stride, h, stride, W) before


def _sum_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Returns the sums over cells, (B, C, *ceil(S / stride)), in float32 at least."""
    x = _pad(x, stride)
    dtype = torch.promote_types(x.dtype, torch.float32)
    for axis, length in enumerate(stride, start=2):
        if length > 1:
            x = x.unflatten(axis, (-1, length)).sum(axis + 1, dtype=dtype)
    return x


def _missing(x: Tensor, stride: Sequence[int]) -> list[int]:
    """Returns how many voxels of x's spatial axes are missing to whole cells."""
    return [-size % length for size, length in zip(x.shape[2:], stride, strict=True)]


def _pad(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Returns x with zeros at the far ends up to whole cells."""
    missing = _missing(x, stride)
    return F.pad(x, [end for rest in reversed(missing) for end in (0, rest)]) if any(missing) else x


def _repeat(x: Tensor, axis: int, times: int) -> Tensor:
    """Returns a view of x, repeated along a new axis."""
    repeated = x.unsqueeze(axis)
    return repeated.expand([times if other == axis else -1 for other in range(repeated.dim())])
