"""The authors' layer for all slices of a volume at once."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_salstm.nn.convlstm import ConvLSTMState, convolve, next_state
from nnunetv2_salstm.nn.precision import to_float32, without_autocast
from nnunetv2_salstm.nn.salstm import SALSTM

BOUNDARIES = ("zero", "replicate")
SEQUENCES = ("slices", "repeat")

# An attention matrix, (B, C, C), and V, (B, C, N); their product is Y.
Factors = tuple[Tensor, Tensor]


class SliceSALSTM(nn.Module):
    """A SALSTM layer applied to every slice of a volume, each computed once for all that need it.

    The state of slice z after m steps is  state_m[z] = cell(x[z], state_{m-1}[z - 1])  in the forward direction and
    cell(x[z], state_{m-1}[z + 1]) in the reverse one: slice z has then seen the m - 1 slices on either side. With
    steps = 2 the result equals `layer(x[z - 1], x[z], x[z + 1])` for every z; steps = D is the full scan. What the
    authors compute for every triple of slices is shared here: the input half of the gates is convolved once for all
    steps, the first step has no hidden half, and its states serve the neighbours too.

    Args:
        layer: the layer; its spatial_dims are the axes of one slice.
        steps: length of the sequence that ends at each slice, at least 2.
        boundary: state of a neighbour beyond the ends of the volume: "zero" (there is none, as prev=None in SALSTM)
            or "replicate" (the end slice stands in for it).
        sequence: "slices", or "repeat" for inputs without neighbours, each slice or image being a sequence (x, ..., x)
            of its own.

    Raises:
        ValueError: for steps below 2, an unknown boundary or sequence.

    Examples:
        >>> layer = SALSTM(in_channels=4, hidden_channels=8, out_channels=3, kernel_size=3)
        >>> tuple(SliceSALSTM(layer)(torch.zeros(1, 4, 6, 12, 10)).shape)
        (1, 3, 6, 12, 10)
    """

    def __init__(self, layer: SALSTM, steps: int = 2, boundary: str = "zero", sequence: str = "slices"):
        super().__init__()
        if steps < 2:
            raise ValueError(f"steps must be at least 2 (a neighbour and the slice itself), got {steps}")
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")
        if sequence not in SEQUENCES:
            raise ValueError(f"sequence must be one of {', '.join(SEQUENCES)}, got {sequence!r}")
        self.layer = layer
        self.steps = steps
        self.boundary = boundary
        self.sequence = sequence

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.layer.in_channels

    @property
    def output_convolution(self) -> Any:
        """The last convolution, to out_channels."""
        return self.layer.conv

    @property
    def feature_map_channels(self) -> int:
        """Channels of all convolutions' outputs together."""
        gates = 8 * self.layer.hidden_channels  # four gates in two directions
        first_layer = gates * (1 + self.steps - 1)  # the input half is shared by all steps
        further_layers = (self.layer.num_layers - 1) * gates * (self.steps + self.steps - 1)
        return first_layer + further_layers + self.layer.out_channels

    def extra_repr(self) -> str:
        return f"steps={self.steps}, boundary={self.boundary}, sequence={self.sequence}"

    def reset_parameters(self) -> None:
        """Draws every parameter anew, as at construction."""
        self.layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of every slice, (B, out_channels, D, *S), in x's dtype.

        Args:
            x: features of a volume, (B, in_channels, D, *S), the D slices along the first spatial axis. With
                sequence "repeat" also images, (B, in_channels, *S).

        Raises:
            ValueError: if x has other channels or dimensions.
        """
        slice_dims = self.layer.spatial_dims + 2
        is_image = self.sequence == "repeat" and x.dim() == slice_dims
        if not (is_image or x.dim() == slice_dims + 1) or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x must be (B, {self.in_channels}, D, *S) with slices of {self.layer.spatial_dims} axes, "
                f"got {tuple(x.shape)}"
            )
        with without_autocast(x):
            volume = to_float32(x).unsqueeze(2) if is_image else to_float32(x)
            slices = volume.transpose(1, 2).flatten(0, 1)  # (B D, in_channels, *S)
            state = self.last_state(slices, depth=volume.shape[2])
            nets = self.layer.forward_net, self.layer.reverse_net
            directions = zip(*(both.unbind(1) for both in state), strict=True)
            factors = [net.attention.factors(ConvLSTMState(*own)) for net, own in zip(nets, directions, strict=True)]
            out: Tensor = self.join(factors).unflatten(-1, slices.shape[2:]).to(x.dtype)  # (B D, out_channels, *S)
            if not is_image:
                out = out.unflatten(0, (-1, volume.shape[2])).transpose(1, 2)
            return out

    def last_state(self, slices: Tensor, depth: int) -> ConvLSTMState:
        """Returns the states after the last step, each (B D, 2, hidden, *S), the directions along axis 1.

        Args:
            slices: (B D, in_channels, *S).
            depth: D.
        """
        weights = []
        for pair in zip(self.layer.forward_net.cells, self.layer.reverse_net.cells, strict=True):
            inputs = pair[0].in_channels
            biases: list[Any] = [cell.conv.bias for cell in pair]
            weights.append((
                torch.cat([cell.conv.weight[:, :inputs] for cell in pair]),
                torch.cat([cell.conv.weight[:, inputs:] for cell in pair]),
                torch.cat(biases),
            ))  # fmt: skip
        states: list[ConvLSTMState] = []
        first_gates = split_directions(convolve(slices, weights[0][0], weights[0][2]))  # shared by all steps
        for step in range(self.steps):
            earlier = [(self.neighbour(s.h, depth), self.neighbour(s.c, depth)) for s in states]
            states = []
            for layer, (input_weight, hidden_weight, bias) in enumerate(weights):
                if layer == 0:
                    gates = first_gates
                else:
                    below = states[layer - 1].h.flatten(1, 2)
                    gates = split_directions(convolve(below, input_weight, bias, groups=2))
                if step == 0:
                    states.append(next_state(gates, None, channel_dim=2))
                else:
                    h, c = earlier[layer]
                    gates = split_directions(convolve(h.flatten(1, 2), hidden_weight, groups=2)).add_(gates)
                    states.append(next_state(gates, c, channel_dim=2))
        return states[-1]

    def join(self, factors: Iterable[Factors]) -> Tensor:
        """Returns Conv1x1([Y_forward ; Y_reverse]), (B D, out_channels, N), from the factors of both Y = A V.

        (W A) V in place of W (A V): the product of the two small matrices saves one with all pixels.
        """
        out = to_float32(self.output_convolution.bias).unsqueeze(-1)
        weights = to_float32(self.output_convolution.weight).flatten(1).chunk(2, dim=1)
        for weight, (matrix, value) in zip(weights, factors, strict=True):
            out = torch.baddbmm(out, (weight @ matrix).expand(value.shape[0], -1, -1), value)
        return out

    def neighbour(self, state: Tensor, depth: int) -> Tensor:
        """Returns each slice's neighbour's state: of the slice before in the forward, after in the reverse direction.

        Args:
            state: (B D, 2, hidden, *S), directions along axis 1.
            depth: D.
        """
        if self.sequence == "repeat":
            return state
        forward, reverse = state.unflatten(0, (-1, depth)).unbind(2)  # (B, D, hidden, *S)
        first, last = forward.narrow(1, 0, 1), reverse.narrow(1, depth - 1, 1)
        if self.boundary == "zero":
            first, last = torch.zeros_like(first), torch.zeros_like(last)
        before = torch.cat([first, forward.narrow(1, 0, depth - 1)], dim=1)
        after = torch.cat([reverse.narrow(1, 1, depth - 1), last], dim=1)
        return torch.stack([before, after], dim=2).flatten(0, 1)


def split_directions(gates: Tensor) -> Tensor:
    """Splits gates of both directions, (N, 8 hidden, *S), into (N, 2, 4 hidden, *S)."""
    split: Tensor = gates.unflatten(1, (2, -1))
    return split
