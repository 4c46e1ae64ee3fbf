"""The residual block that puts a layer on a coarser grid of a feature map."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_salstm.nn.conv_control import ConvControl
from nnunetv2_salstm.nn.convlstm import CONVOLUTIONS, mix_channels
from nnunetv2_salstm.nn.pooling import add_upsampled, average_pool
from nnunetv2_salstm.nn.precision import to_float32, without_autocast
from nnunetv2_salstm.nn.slices import SliceSALSTM

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class SALSTMBlock(nn.Module):
    """x + upsample(layer(norm(reduce(x)))), the identity at the start unless initial_gain says otherwise.

    `reduce` averages over cells of `stride` voxels and mixes the channels down to the layer's. The layer's last
    convolution, back to x's channels, runs before the upsampling, where it is cheap. Everything
    between the averaging and the upsampling is float32 on the coarse grid, so that inputs of 1e4 stay finite under
    float16 autocast. Takes every size.

    Args:
        channels: channels of x.
        layer: a `SliceSALSTM` (or a `ConvControl`) from its own in_channels to `channels`.
        stride: edge lengths of a cell of the coarse grid in voxels, one for each spatial axis of x.
        norm: normalisation of the layer's input, e.g. nn.InstanceNorm3d, or None. A grid of one cell has no
            statistics: there only its affine part is applied.
        initial_gain: start of the last convolution's weights in units of nnU-Net's own (He et al. 2015, for leaky ReLU
            of slope 1e-2); 0 makes the block the identity.

    Raises:
        ValueError: if the layer is another one or does not return `channels` channels, a stride is below 1 or a single
            number, or initial_gain negative.

    Examples:
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
        stride: Sequence[int],
        norm: nn.Module | None = None,
        initial_gain: float = 0.0,
    ):
        super().__init__()
        if not isinstance(layer, (SliceSALSTM, ConvControl)):
            raise ValueError(
                f"layer must be a SliceSALSTM or a ConvControl, got {type(layer).__name__}; a SALSTM is wrapped as "
                "SliceSALSTM(layer)"
            )
        returned = layer.output_convolution.out_channels
        if returned != channels:
            raise ValueError(f"layer must return {channels} channels as x has, got {returned}")
        if not isinstance(stride, Sequence) or len(stride) not in CONVOLUTIONS or min(stride) < 1:
            raise ValueError(
                f"stride must be 1 to 3 lengths of at least 1 voxel, one for each spatial axis of x, got {stride}"
            )
        if not initial_gain >= 0:
            raise ValueError(f"initial_gain must be at least 0, got {initial_gain}")
        self.initial_gain = initial_gain
        self.channels = channels
        self.stride = tuple(stride)
        self.reduce: Any = CONVOLUTIONS[len(stride)](channels, layer.in_channels, 1)  # torch: a bias may be missing
        self.norm = norm
        self.layer = layer
        self.reset_output_convolution()

    def extra_repr(self) -> str:
        return f"stride={self.stride}, initial_gain={self.initial_gain}"

    def reset_parameters(self) -> None:
        """Draws every parameter anew, as at construction."""
        self.reduce.reset_parameters()
        reset_norm = getattr(self.norm, "reset_parameters", None)
        if reset_norm is not None:
            reset_norm()
        self.layer.reset_parameters()
        self.reset_output_convolution()

    def reset_output_convolution(self) -> None:
        """Starts the layer's last convolution as `initial_gain` says."""
        weight = self.layer.output_convolution.weight
        if self.initial_gain:
            nn.init.kaiming_normal_(weight, a=1e-2)
            with torch.no_grad():
                weight.mul_(self.initial_gain)
        else:
            nn.init.zeros_(weight)
        nn.init.zeros_(self.layer.output_convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, (B, channels, *S), with the layer's contribution added.

        Raises:
            ValueError: if x has other channels or axes than the block.
        """
        self.check(x)
        return add_upsampled(x, self.contribution(x), self.stride)

    def check(self, x: Tensor) -> None:
        """Checks channels and axes of x.

        Raises:
            ValueError: if they are not the block's.
        """
        if x.dim() != len(self.stride) + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"x must be (B, {self.channels}, *S) with {len(self.stride)} spatial axes, got {tuple(x.shape)}"
            )

    def compute_conv_feature_map_size(self, input_size: tuple[int, ...]) -> int:
        """Returns how many values the convolutions produce for a size in voxels, as nnU-Net counts.

        The sum with the skip is not counted: no gradient needs it, so that it has gone when memory is fullest.
        """
        cells = math.prod(math.ceil(size / length) for size, length in zip(input_size, self.stride, strict=True))
        coarse_channels: int = self.reduce.out_channels + self.layer.feature_map_channels
        return cells * coarse_channels

    def contribution(self, x: Tensor) -> Tensor:
        """Returns what the block adds to the voxels of each cell, (B, channels, *ceil(S / stride))."""
        coarse = average_pool(x, self.stride)
        with without_autocast(x):
            reduced = mix_channels(coarse, self.reduce.weight, self.reduce.bias)
            return self.apply_layer(self.normalise(reduced))

    def apply_layer(self, x: Tensor) -> Tensor:
        """Returns the layer's output on the coarse grid, (B, channels, *S), from its input, (B, in_channels, *S)."""
        output: Tensor = self.layer(x)
        return output

    def normalise(self, x: Tensor) -> Tensor:
        """Returns norm(x), or only its affine part where it would take statistics of a single cell."""
        if self.norm is None:
            return x
        weight, bias = (getattr(self.norm, name, None) for name in ("weight", "bias"))
        has_own = not self.norm.training and getattr(self.norm, "running_mean", None) is not None
        if math.prod(x.shape[2:]) > 1 or has_own:
            if isinstance(self.norm, INSTANCE_NORMS) and not self.norm.track_running_stats:
                # Groups of one channel: the same, in one operation instead of several.
                weight, bias = (p if p is None else p.to(x.dtype) for p in (weight, bias))
                return F.group_norm(x, x.shape[1], weight, bias, self.norm.eps)
            return to_float32(self.norm(x if weight is None else x.to(weight.dtype)))
        broadcast = (-1, *[1] * len(self.stride))
        x = x if weight is None else x * weight.view(broadcast)
        return x if bias is None else x + bias.view(broadcast)


def reset_blocks(network: nn.Module) -> None:
    """Draws every block's parameters anew and makes it what it is at the start.

    For networks that initialise all of their convolutions, those of the blocks with them, as some do at the end of
    their constructor: the blocks then are no identities any more.
    """
    for module in network.modules():
        if isinstance(module, SALSTMBlock):
            module.reset_parameters()


@contextmanager
def switched_off(blocks: Iterable[SALSTMBlock]) -> Iterator[None]:
    """Makes blocks the identity in this context: what they add is zero."""
    last = [p for block in blocks for p in block.layer.output_convolution.parameters()]
    kept = [parameter.detach().clone() for parameter in last]
    try:
        with torch.no_grad():
            for parameter in last:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(last, kept, strict=True):
                parameter.copy_(value)
