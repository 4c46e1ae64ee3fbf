"""Going to a coarse grid and back: means over cells of a feature map, and adding one value to every voxel of a cell.

At full resolution it is memory traffic that costs, above all new tensors. Hence sums by rows, additions that broadcast,
and backward passes of our own that write each gradient once; not by way of `setup_context`, with which PyTorch inspects
signatures at every call. Any size is taken; nnU-Net's patches consist of whole cells.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_salstm.nn.precision import widened, without_autocast

Cell = tuple[int, ...]


def average_cells(x: Tensor, cell: Cell) -> Tensor:
    """Returns the means of x, (B, C, *S), over cells, (B, C, *ceil(S / cell)), in float32 at least.

    Args:
        x: (B, C, *S).
        cell: edge lengths in voxels, one for each spatial axis; cells at the far ends may be smaller.
    """
    if math.prod(cell) == 1:
        return widened(x)
    missing = [-size % length for size, length in zip(x.shape[2:], cell, strict=True)]
    if not any(missing):
        return _SumCells.apply(x, cell, 1 / math.prod(cell))
    sums = _SumCells.apply(F.pad(x, [end for rest in reversed(missing) for end in (0, rest)]), cell, 1.0)
    for axis, (length, rest) in enumerate(zip(cell, missing, strict=True)):
        voxels = torch.full((sums.shape[2 + axis],), length, dtype=sums.dtype, device=sums.device)
        voxels[-1] -= rest
        sums = sums / voxels.view([-1 if other == axis else 1 for other in range(len(cell))])
    return sums


def add_to_cells(x: Tensor, values: Tensor, cell: Cell, inplace: bool = False) -> Tensor:
    """Returns x, (B, C, *S), in its dtype, with a value added to all voxels of each cell.

    Args:
        x: (B, C, *S).
        values: (B, C, *ceil(S / cell)).
        cell: edge lengths in voxels, one for each spatial axis; cells at the far ends may be smaller.
        inplace: overwrite x; for inference, where no gradient needs it.
    """
    if not _has_whole_cells(x, cell):
        repeated = _repeat(values, x, cell)
        return x.add_(repeated) if inplace else x + repeated
    if inplace:
        _by_rows(x, cell).add_(_rows(values.to(x.dtype), cell))
        return x
    return _AddToCells.apply(x, values, cell)


class _SumCells(torch.autograd.Function):
    """`factor` times the sums over whole cells, in float32 at least; the backward pass hands it to all their voxels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cell: Cell, factor: float) -> Tensor:
        ctx.cell, ctx.factor, ctx.size, ctx.dtype = cell, factor, x.shape, x.dtype
        dtype = torch.promote_types(x.dtype, torch.float32)
        # The last axis at the end, on the smallest tensor: sums within rows are the slow ones.
        for axis in range(len(cell) - 2, -1, -1):
            if cell[axis] > 1:
                x = _sum_axis(x.unflatten(2 + axis, (-1, cell[axis])), 3 + axis, dtype)
        cells = x.unflatten(-1, (-1, cell[-1]))
        if x.device.type == "cpu" and x.dtype == dtype:
            # Sums of neighbours by a product with a vector, with the factor in it. Narrower where autocast is on.
            with without_autocast(x):
                return cells @ x.new_full((cell[-1],), factor)
        return cells.sum(-1, dtype=dtype) * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows = _rows((gradients[0] * ctx.factor).to(ctx.dtype), ctx.cell)
        repeats = [1, 1, *(length for edge in ctx.cell[:-1] for length in (1, edge)), 1]
        return rows.expand([n * m for n, m in zip(rows.shape, repeats, strict=True)]).reshape(ctx.size), None, None


class _AddToCells(torch.autograd.Function):
    """x + values on whole cells, in one sweep; the backward pass sums over the cells."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, cell: Cell) -> Tensor:
        ctx.cell, ctx.dtype = cell, values.dtype
        return (_by_rows(x, cell) + _rows(values.to(x.dtype), cell)).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], _SumCells.apply(gradients[0], ctx.cell, 1.0).to(ctx.dtype), None


def _sum_axis(x: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """Returns x summed over one short axis of at least two values."""
    if x.device.type != "cpu" or x.dtype != dtype:
        return x.sum(axis, dtype=dtype)
    # The CPU adds vectors faster than it sums a few values each.
    first, second, *others = x.unbind(axis)
    total = first + second
    for other in others:
        total += other
    return total


def _has_whole_cells(x: Tensor, cell: Cell) -> bool:
    return not any(size % length for size, length in zip(x.shape[2:], cell, strict=True))


def _by_rows(x: Tensor, cell: Cell) -> Tensor:
    """Returns x, (B, C, D, H, W), as (B, C, D / cell, cell, H / cell, cell, W); a view, likewise with other axes."""
    for axis in range(len(cell) - 2, -1, -1):
        x = x.unflatten(2 + axis, (-1, cell[axis]))
    return x


def _rows(values: Tensor, cell: Cell) -> Tensor:
    """Returns values, (B, C, d, h, w), repeated along the last axis and broadcastable, (B, C, d, 1, h, 1, w cell)."""
    values = values.unsqueeze(-1).expand(*values.shape, cell[-1]).flatten(-2)
    for axis in range(len(cell) - 2, -1, -1):
        values = values.unsqueeze(3 + axis)
    return values


def _repeat(values: Tensor, x: Tensor, cell: Cell) -> Tensor:
    """Returns values repeated over the cells and cut to the size of x."""
    for axis, (length, size) in enumerate(zip(cell, x.shape[2:], strict=True), start=2):
        values = values.repeat_interleave(length, axis).narrow(axis, 0, size)
    return values.to(x.dtype)  # last, so that gradients are summed before they are narrowed
