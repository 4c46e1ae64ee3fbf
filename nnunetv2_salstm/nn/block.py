"""The residual block that puts a layer on a coarser grid of a feature map and starts as the identity."""

import math
from functools import partial

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_salstm.nn.conv_control import ConvControl
from nnunetv2_salstm.nn.convlstm import CONVOLUTIONS, convolve
from nnunetv2_salstm.nn.precision import widened, without_autocast
from nnunetv2_salstm.nn.slice_salstm import SliceSALSTM


class SALSTMBlock(nn.Module):
    """x + upsample(layer(norm(reduce(x)))), the identity at the start.

    `reduce` averages over cells of `stride` voxels and mixes the channels down to the layer's. The layer's last
    convolution, back to x's channels, starts at zero and runs before the upsampling, where it is cheap. Everything
    between the averaging and the upsampling is float32 on the coarse grid, so that inputs of 1e4 stay finite under
    float16 autocast. Takes every size.

    Args:
        channels: channels of x.
        layer: a `SliceSALSTM` (or a `ConvControl`) from its own in_channels to `channels`.
        stride: edge lengths of a cell of the coarse grid in voxels, one for each spatial axis of x.
        norm: normalisation of the layer's input, e.g. nn.InstanceNorm3d, or None. A grid of one cell has no
            statistics: there only its affine part is applied.

    Raises:
        ValueError: if the layer does not return `channels` channels, or a stride is below 1.

    Example:
        >>> import torch
        >>> from nnunetv2_salstm.nn import SALSTM
        >>> layer = SliceSALSTM(SALSTM(in_channels=8, hidden_channels=8, out_channels=32, kernel_size=3))
        >>> block = SALSTMBlock(32, layer, stride=(1, 2, 2), norm=nn.InstanceNorm3d(8, affine=True))
        >>> x = torch.rand(1, 32, 3, 7, 9)
        >>> torch.equal(block(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        layer: SliceSALSTM | ConvControl,
        stride: tuple[int, ...],
        norm: nn.Module | None = None,
    ):
        super().__init__()
        returned = layer.output_convolution.out_channels
        if returned != channels:
            raise ValueError(f"layer must return {channels} channels as x has, got {returned}")
        if len(stride) not in CONVOLUTIONS or min(stride) < 1:
            raise ValueError(f"stride must be 1 to 3 lengths of at least 1 voxel, got {stride}")
        self.channels = channels
        self.stride = tuple(stride)
        self.reduce = CONVOLUTIONS[len(stride)](channels, layer.in_channels, 1)
        self.norm = norm
        self.layer = layer
        self.start_as_identity()

    def extra_repr(self) -> str:
        return f"stride={self.stride}"

    def reset_parameters(self) -> None:
        """Draws every parameter anew and makes the block the identity, as at construction."""
        self.reduce.reset_parameters()
        reset_norm = getattr(self.norm, "reset_parameters", None)
        if reset_norm is not None:
            reset_norm()
        self.layer.reset_parameters()
        self.start_as_identity()

    def start_as_identity(self) -> None:
        """Sets the layer's last convolution to zero, so that the block returns its input."""
        nn.init.zeros_(self.layer.output_convolution.weight)
        nn.init.zeros_(self.layer.output_convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x with the layer's contribution added, (B, channels, *S).

        Raises:
            ValueError: if x has other channels or axes than the block.
        """
        if x.dim() != len(self.stride) + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"x must be (B, {self.channels}, *S) with {len(self.stride)} spatial axes, got {tuple(x.shape)}"
            )
        # In place: the sum needs no second feature map at full size.
        return self.contribution(x).add_(x)

    def compute_conv_feature_map_size(self, input_size: tuple[int, ...]) -> int:
        """Returns how many values the convolutions and the sum produce for a size in voxels, as nnU-Net counts."""
        cells = math.prod(math.ceil(size / length) for size, length in zip(input_size, self.stride, strict=True))
        coarse_channels = self.reduce.out_channels + self.layer.feature_map_channels
        return cells * coarse_channels + math.prod(input_size) * self.channels

    def contribution(self, x: Tensor) -> Tensor:
        """Returns what the block adds to x, (B, channels, *S)."""
        coarse = self.pool(x)
        with without_autocast(x):
            reduced = convolve(widened(coarse), self.reduce.weight, self.reduce.bias)
            contribution = self.layer(self.normalise(reduced)).to(x.dtype)
        return self.upsample(contribution, x)

    def pool(self, x: Tensor) -> Tensor:
        """Returns the means over the cells of the coarse grid, (B, channels, *ceil(S / stride))."""
        return x if math.prod(self.stride) == 1 else average_cells(x, self.stride)

    def normalise(self, x: Tensor) -> Tensor:
        """Returns norm(x), or only its affine part where the grid is a single cell."""
        if self.norm is None:
            return x
        weight, bias = (getattr(self.norm, name, None) for name in ("weight", "bias"))
        if math.prod(x.shape[2:]) > 1:
            return widened(self.norm(x if weight is None else x.to(weight.dtype)))
        broadcast = (-1, *[1] * len(self.stride))
        x = x if weight is None else x * weight.view(broadcast)
        return x if bias is None else x + bias.view(broadcast)

    def upsample(self, contribution: Tensor, x: Tensor) -> Tensor:
        """Returns the contribution at x's size, constant within a cell (linear interpolation costs more)."""
        if math.prod(self.stride) == 1:
            return contribution
        scale = tuple(float(length) for length in self.stride)
        full = F.interpolate(contribution, scale_factor=scale, mode="nearest-exact")
        for axis, size in enumerate(x.shape[2:], start=2):
            full = full.narrow(axis, 0, size)
        return full


def average_cells(x: Tensor, cell: tuple[int, ...]) -> Tensor:
    """Returns the means of x, (B, C, *S), over cells, (B, C, *ceil(S / cell)); cells at the far ends may be smaller."""
    cell = tuple(min(length, size) for length, size in zip(cell, x.shape[2:], strict=True))
    average = partial(F.avg_pool1d if len(cell) == 1 else F.avg_pool2d, ceil_mode=True)
    if len(cell) < 3:
        return average(x, cell)
    # Within the slices, then through them: avg_pool3d is slower, and not there for half precision on CPU.
    within = average(rearrange(x, "b c d h w -> (b c) d h w"), cell[1:])
    through = average(rearrange(within, "bc d h w -> bc 1 d (h w)"), (cell[0], 1))
    return rearrange(through, "(b c) 1 d (h w) -> b c d h w", b=x.shape[0], h=within.shape[2])
