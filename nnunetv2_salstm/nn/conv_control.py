"""Plain convolutions in place of a SALSTM layer: what the same parameters do without LSTM and attention."""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_salstm.nn.convlstm import CONVOLUTIONS
from nnunetv2_salstm.nn.precision import to_float32


class ConvControl(nn.Module):
    """Two convolutions and an output convolution with about the parameters and the reach of a `SliceSALSTM`.

    out = Conv1x1(act(Conv(act(Conv(x))))); the first convolution spans 2 reach + 1 slices, the second one slice. The
    width between them is chosen so that the parameters match those of a SALSTM of equal sizes.

    Args:
        in_channels: channels of the input.
        hidden_channels: hidden channels of the SALSTM it stands in for; it hands 2 hidden_channels to the output
            convolution, as that does.
        out_channels: channels of the output.
        kernel_size: odd edge length in pixels within a slice.
        reach: slices seen on either side (steps - 1 of the SALSTM), only for spatial_dims 3.
        spatial_dims: axes of the input; with 3 the first one counts slices.

    Examples:
        >>> import torch
        >>> tuple(ConvControl(8, 8, 32, spatial_dims=3)(torch.zeros(1, 8, 4, 6, 6)).shape)
        (1, 32, 4, 6, 6)
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        reach: int = 1,
        spatial_dims: int = 3,
    ):
        super().__init__()
        self.in_channels = in_channels
        convolution: Any = CONVOLUTIONS[spatial_dims]  # torch types its kernels by dimension
        through, within = (2 * reach + 1, 1) if spatial_dims == 3 else (kernel_size, kernel_size)
        first_kernel = (through, *[kernel_size] * (spatial_dims - 1))
        second_kernel = (within, *[kernel_size] * (spatial_dims - 1))
        # A SALSTM has two directions of four gates, each over its inputs and hidden channels.
        salstm_weights = 8 * hidden_channels * (in_channels + hidden_channels) * math.prod(second_kernel)
        weights_per_width = in_channels * math.prod(first_kernel) + 2 * hidden_channels * math.prod(second_kernel)
        width = max(1, round(salstm_weights / weights_per_width))
        self.first = convolution(in_channels, width, first_kernel, padding=[(k - 1) // 2 for k in first_kernel])
        self.second = convolution(
            width, 2 * hidden_channels, second_kernel, padding=[(k - 1) // 2 for k in second_kernel]
        )
        self.conv = convolution(2 * hidden_channels, out_channels, 1)

    @property
    def convolutions(self) -> tuple[Any, Any, Any]:
        """The convolutions in the order of their use."""
        return self.first, self.second, self.conv

    @property
    def output_convolution(self) -> Any:
        """The last convolution, to out_channels."""
        return self.conv

    @property
    def feature_map_channels(self) -> int:
        """Channels of all convolutions' outputs together."""
        return sum(convolution.out_channels for convolution in self.convolutions)

    def reset_parameters(self) -> None:
        """Draws every parameter anew, as at construction."""
        for convolution in self.convolutions:
            convolution.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out_channels, *S) from (B, in_channels, *S), in the dtype of the weights."""
        x = F.leaky_relu(self.first(to_float32(x).to(self.conv.weight.dtype)), 1e-2)
        output: Tensor = self.conv(F.leaky_relu(self.second(x), 1e-2))
        return output
