"""One step of the convolutional LSTM whose states become query, key and value."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_salstm.nn.precision import to_float32, without_autocast

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


class ConvLSTMState(NamedTuple):
    """States and gates after one step, each (B, hidden, *S) in float32 or wider.

    Attributes:
        h: hidden state, the output of the cell.
        c: cell state.
        i: input gate.
        f: forget gate.
        o: output gate.
        g: candidate.
    """

    h: Tensor
    c: Tensor
    i: Tensor
    f: Tensor
    o: Tensor
    g: Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """Convolves x, `(B, C, *S)`, with an odd kernel so that the size S is kept."""
    weight, bias = to_float32(weight), None if bias is None else to_float32(bias)
    padding = [(size - 1) // 2 for size in weight.shape[2:]]
    return _CONVOLVE[x.dim() - 2](x, weight, bias, padding=padding, groups=groups)


def mix_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolves x, `(B, C, *S)`, with a kernel of one voxel, as a matrix product: faster on small grids."""
    weight, bias = to_float32(weight).flatten(1), to_float32(bias)
    mixed = torch.baddbmm(bias.unsqueeze(-1), weight.expand(x.shape[0], -1, -1), x.flatten(2))
    output: Tensor = mixed.unflatten(-1, x.shape[2:])
    return output


def next_state(gates: Tensor, c: Tensor | None, channel_dim: int = 1) -> ConvLSTMState:
    """Turns gate pre-activations, the four gates i, f, o, g stacked along `channel_dim`, into the next state.

    With `c` None the step is the first of its sequence: c = 0, so that c' = i g.
    """
    hidden = gates.shape[channel_dim] // 4
    sigmoids, g = gates.split((3 * hidden, hidden), dim=channel_dim)
    i, f, o = sigmoids.sigmoid().chunk(3, dim=channel_dim)
    g = g.tanh()
    c = i * g if c is None else torch.addcmul(i * g, f, c)
    return ConvLSTMState(o * c.tanh(), c, i, f, o, g)


class ConvLSTMCell(nn.Module):
    """Convolutional LSTM cell (Ji et al. 2024, the authors' gate order i, f, o, g).

    a = Conv([x ; h]),  i, f, o = sigmoid(a_i, a_f, a_o),  g = tanh(a_g),  c' = f c + i g,  h' = o tanh(c').
    States are float32 even under autocast, since the cell state sums over steps.

    Args:
        in_channels: channels of x.
        hidden_channels: channels of every state.
        kernel_size: odd edge length in pixels.
        spatial_dims: 1, 2 or 3.

    Raises:
        ValueError: for channels below 1, an even kernel, or other spatial_dims.

    Examples:
        >>> cell = ConvLSTMCell(3, 8, kernel_size=3)
        >>> state = cell(torch.zeros(1, 3, 5, 7))
        >>> state = cell(torch.zeros(1, 3, 5, 7), state)
        >>> tuple(state.h.shape)
        (1, 8, 5, 7)
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: int = 5, spatial_dims: int = 2):
        super().__init__()
        for name, value in (("in_channels", in_channels), ("hidden_channels", hidden_channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive so that the size is kept, got {kernel_size}")
        if spatial_dims not in CONVOLUTIONS:
            raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.spatial_dims = spatial_dims
        self.conv = CONVOLUTIONS[spatial_dims](
            in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding=(kernel_size - 1) // 2
        )

    def forward(self, x: Tensor, state: ConvLSTMState | None = None) -> ConvLSTMState:
        """Makes one step.

        Args:
            x: input of this step, (B, in_channels, *S).
            state: state after the step before, or None at the start (h = c = 0).

        Raises:
            ValueError: if x has other dimensions or channels than the cell.
        """
        if x.dim() != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x must be (B, {self.in_channels}, *S) with {self.spatial_dims} spatial axes, got {tuple(x.shape)}"
            )
        with without_autocast(x):
            return self.step(self.input_half(to_float32(x)), state)

    def input_half(self, x: Tensor) -> Tensor:
        """Returns what x, (B, in_channels, *S), contributes to the gates, (B, 4 hidden, *S), bias included."""
        # Slices of the weight, not parameters of their own: the whole weight receives a gradient also where the hidden
        # half is left out (DDP demands one).
        return convolve(x, self.conv.weight[:, : self.in_channels], self.conv.bias)

    def step(self, gates: Tensor, state: ConvLSTMState | None) -> ConvLSTMState:
        """Returns the next state from the input half of the gates and the state before, or None at the start."""
        if state is None:
            return next_state(gates, None)  # h = 0 makes the hidden half vanish
        return next_state(convolve(state.h, self.conv.weight[:, self.in_channels :]).add_(gates), state.c)
