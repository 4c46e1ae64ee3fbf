"""Convolution with fewer multiplications, for large slices on the CPU.

Minimal filtering (Winograd 1980; Lavin and Gray, CVPR 2016) along the rows: four rows of output are mixed from eight
convolutions with kernels of one row, which are PyTorch's, where the plain way needs twenty. The result is the same
convolution with about twice the rounding. Along both axes it would save more, at ten times the rounding.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_salstm.nn.precision import without_autocast

KERNEL_ROWS = 5
TILE = 4  # rows of output that are computed together
INPUT_ROWS = TILE + KERNEL_ROWS - 1  # that such a tile depends on

# From here on it is faster (docs/results/winograd.json).
LEAST_CHANNELS = 24
LEAST_OUTPUT = 2**19  # values of an image's output

# Tiles of so many values of input and output are taken at a time: what is between them then fits in the cache.
VALUES_AT_A_TIME = 2**21

_PLAIN = {"stride": [1, 1], "dilation": [1, 1], "transposed": False, "output_padding": [0, 0], "groups": 1}


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matrices O, G, I of  y = O ((G w) * (I x))  for rows x (8), w (5) and y (4) (Toom and Cook).

    Two polynomials are multiplied by evaluating both at enough points, multiplying the values, and interpolating; the
    transpose of that, with w held fixed, is the filter. The last point is infinity: the leading coefficient.

    Shapes: O (4, 8), G (8, 5), I (8, 8).
    """
    points = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)  # close to 1, for small rounding

    def evaluation(coefficients: int) -> np.ndarray:
        return np.concatenate([np.vander(points, coefficients, increasing=True), np.eye(coefficients)[-1:]])

    of_input = np.linalg.inv(evaluation(INPUT_ROWS)).T
    largest = abs(of_input).max(axis=1, keepdims=True)
    return evaluation(TILE).T, evaluation(KERNEL_ROWS) * largest, of_input / largest


TO_OUTPUT, TO_WEIGHT, TO_INPUT = _transforms()


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve_by_tiles` takes x, `(B, C, H, W)`, and weight, and is faster than PyTorch's convolution."""
    # What is compiled or exported is to be made of PyTorch's own operations, and its sizes may be unknown.
    if x.device.type != "cpu" or x.dim() != 4 or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    out_channels, channels, rows, _ = weight.shape
    is_large = channels >= LEAST_CHANNELS and out_channels * x.shape[2] * x.shape[3] >= LEAST_OUTPUT
    return rows == KERNEL_ROWS and is_large


def convolve_by_tiles(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolves x, `(B, C, H, W)`, with weight, `(O, C, 5, odd)`, so that H and W are kept; `(B, O, H, W)`."""
    return _TiledConvolution.apply(x, weight, bias)


class _TiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolved(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else bias.shape

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # Second derivatives are wanted, which PyTorch's backward pass has.
            padding = [size // 2 for size in weight.shape[2:]]
            arguments = {"bias_sizes": ctx.bias_sizes, "padding": padding, "output_mask": needed}
            return torch.ops.aten.convolution_backward(gradient, x, weight, **arguments, **_PLAIN)
        with without_autocast(x):  # which may be on again by now
            return (
                _convolved(gradient, weight.flip(2, 3).transpose(0, 1), None) if needed[0] else None,
                _weight_gradient(x, gradient, weight.shape[3]) if needed[1] else None,
                gradient.sum((0, 2, 3)) if needed[2] else None,
            )


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, _, height, width = x.shape
    out_channels, _, _, columns = weight.shape
    kernels = rearrange(torch.einsum("nk, ockw -> nocw", x.new_tensor(TO_WEIGHT), weight), "n o c w -> n o c 1 w")
    sizes = batch, out_channels, height + -height % TILE, width
    out = torch.empty(sizes, dtype=x.dtype, memory_format=torch.channels_last)
    out_tiles = rearrange(out, "b o (t i) w -> b t i (w o)", i=TILE)  # a view
    for image, some, transformed in _transformed_tiles(x, out_channels):
        tiles = out_tiles[image, some]
        products = x.new_empty(len(tiles), INPUT_ROWS, width * out_channels)
        for n, (rows, kernel) in enumerate(zip(transformed, kernels, strict=True)):
            product = F.conv2d(rows, kernel, padding=(0, columns // 2))
            products[:, n] = rearrange(product, "t o 1 w -> t (w o)")
        torch.bmm(x.new_tensor(TO_OUTPUT).expand(len(tiles), -1, -1), products, out=tiles)
        if bias is not None:
            tiles.unflatten(-1, (width, out_channels)).add_(bias)
    # No view, of which autograd would not let what follows add to the gates in place.
    return out if out.shape[2] == height else out[:, :, :height].clone()


def _weight_gradient(x: Tensor, gradient: Tensor, columns: int) -> Tensor:
    """Returns the gradient of the weight, (O, C, 5, columns), from x and the gradient of the output, (B, O, H, W)."""
    channels, out_channels = x.shape[1], gradient.shape[1]
    gradient_rows = rearrange(gradient, "b o h w -> b h (w o)")
    if missing := -x.shape[2] % TILE:
        gradient_rows = F.pad(gradient_rows, (0, 0, 0, missing))
    gradient_tiles = gradient_rows.unflatten(1, (-1, TILE))
    kernel = x.new_empty(out_channels, channels, 1, columns).contiguous(memory_format=torch.channels_last)
    of_kernels = torch.stack([torch.zeros_like(kernel)] * INPUT_ROWS)
    for image, some, transformed in _transformed_tiles(x, out_channels):
        of_products = _mix(TO_OUTPUT.T, gradient_tiles[image, some], out_channels)
        for of_kernel, rows, of_product in zip(of_kernels, transformed, of_products, strict=True):
            arguments = {"bias_sizes": None, "padding": [0, columns // 2], "output_mask": [False, True, False]}
            of_kernel += torch.ops.aten.convolution_backward(of_product, rows, kernel, **arguments, **_PLAIN)[1]
    return torch.einsum("nk, nocw -> ockw", x.new_tensor(TO_WEIGHT), of_kernels.squeeze(3))


def _transformed_tiles(x: Tensor, out_channels: int) -> Iterator[tuple[int, slice, Tensor]]:
    """Yields the number of an image, some of its tiles, and their transformed rows, (8, tiles, C, 1, W)."""
    _, channels, height, width = x.shape
    beyond = KERNEL_ROWS // 2
    padded = F.pad(rearrange(x, "b c h w -> b h (w c)"), (0, 0, beyond, beyond + -height % TILE))
    at_a_time = max(1, VALUES_AT_A_TIME // (TILE * width * (channels + out_channels)))
    for image, rows in enumerate(padded):
        tiles = rows.unfold(0, INPUT_ROWS, TILE).transpose(1, 2)  # (tiles, 8, W C), a view: tiles overlap
        for start in range(0, len(tiles), at_a_time):
            some = slice(start, start + at_a_time)
            yield image, some, _mix(TO_INPUT, tiles[some], channels)


def _mix(matrix: np.ndarray, rows: Tensor, channels: int) -> Tensor:
    """Returns matrix, (n, i), times the rows of each tile, (T, i, W C), as images of one row, (n, T, C, 1, W)."""
    mixed = rows.new_empty(len(matrix), rows.shape[0], rows.shape[2])
    torch.bmm(rows.new_tensor(matrix).expand(len(rows), -1, -1), rows, out=mixed.transpose(0, 1))
    return rearrange(mixed, "n t (w c) -> n t c 1 w", c=channels)
