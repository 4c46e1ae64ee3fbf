"""Going to a coarse grid and back: means over cells of a feature map, and adding one value to every voxel of a cell.

At full resolution it is memory traffic that costs, above all new tensors. Hence sums by rows, additions that broadcast,
and backward passes of our own that write each gradient once. Any size is taken; nnU-Net's patches consist of whole
cells.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_salstm.nn.precision import widened

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
        return _SumCells.apply(x, cell) / math.prod(cell)
    sums = _SumCells.apply(F.pad(x, [end for rest in reversed(missing) for end in (0, rest)]), cell)
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
    """Sums over whole cells in float32 at least; the backward pass hands a gradient to all voxels of a cell."""

    @staticmethod
    def forward(x: Tensor, cell: Cell) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        # The last axis at the end, on the smallest tensor: sums within rows are the slow ones.
        last = len(cell) - 1
        for axis in (*range(last - 1, -1, -1), last):
            if cell[axis] > 1:
                x = _sum_axis(x.unflatten(2 + axis, (-1, cell[axis])), 3 + axis, dtype)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Cell], output: Tensor) -> None:
        x, ctx.cell = inputs
        ctx.size, ctx.dtype = x.shape, x.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows = _rows(gradients[0].to(ctx.dtype), ctx.cell)
        repeats = [1, 1, *(length for edge in ctx.cell[:-1] for length in (1, edge)), 1]
        return rows.expand([n * m for n, m in zip(rows.shape, repeats, strict=True)]).reshape(ctx.size), None


class _AddToCells(torch.autograd.Function):
    """x + values on whole cells, in one sweep; the backward pass sums over the cells."""

    @staticmethod
    def forward(x: Tensor, values: Tensor, cell: Cell) -> Tensor:
        return (_by_rows(x, cell) + _rows(values.to(x.dtype), cell)).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Cell], output: Tensor) -> None:
        _, values, ctx.cell = inputs
        ctx.dtype = values.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], _SumCells.apply(gradients[0], ctx.cell).to(ctx.dtype), None


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
