"""The authors' layer for all slices of a volume at once."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_salstm.nn.convlstm import ConvLSTMState, convolve, next_state
from nnunetv2_salstm.nn.precision import widened, without_autocast
from nnunetv2_salstm.nn.salstm import SALSTM, DirectionNet

BOUNDARIES = ("zero", "replicate")
SEQUENCES = ("slices", "repeat")

# The CPU takes the slices in turn from this many gate values a slice on: what is between them then fits in its cache
# (docs/results/in_turn.json). Elsewhere, and for smaller slices, many small operations cost more than that saves.
LARGE_SLICE = 2**19

# An attention matrix, (B, C, C), and V, (B, C, N).
Factors = tuple[Tensor, Tensor]

# The order in which the CPU convolves fastest.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class SliceSALSTM(nn.Module):
    """A SALSTM layer applied to every slice of a volume, each computed once for all that need it.

    The state of slice z after m steps is  state_m[z] = cell(x[z], state_{m-1}[z - 1])  in the forward direction and
    cell(x[z], state_{m-1}[z + 1]) in the reverse one: slice z has then seen the m - 1 slices on either side. With
    steps = 2 the result equals `layer(x[z - 1], x[z], x[z + 1])` for every z; steps = D is the full scan. What the
    authors compute for every triple of slices is shared here: the input half of the gates is convolved once for all
    steps, the first step has no hidden half, and its states serve the neighbours too. Small slices go at once, large
    ones in turn on the CPU; the results are the same.

    Args:
        layer: the layer; its spatial_dims are the axes of one slice.
        steps: length of the sequence that ends at each slice, at least 2.
        boundary: state of a neighbour beyond the ends of the volume: "zero" (there is none, as prev=None in SALSTM)
            or "replicate" (the end slice stands in for it).
        sequence: "slices", or "repeat" for inputs without neighbours, each slice or image being a sequence (x, ..., x)
            of its own.

    Raises:
        ValueError: for steps below 2, an unknown boundary or sequence.

    Example:
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
            volume = widened(x).unsqueeze(2) if is_image else widened(x)
            gates_of_a_slice = 8 * self.layer.hidden_channels * volume[:, 0, 0].numel()
            # Symbolic in an export with a batch of any size, which a comparison would confine.
            is_known = isinstance(gates_of_a_slice, int)
            in_turn = x.device.type == "cpu" and is_known and gates_of_a_slice >= LARGE_SLICE
            out = (self.in_turn(volume) if in_turn else self.at_once(volume)).to(x.dtype)
            return out.squeeze(2) if is_image else out

    def in_turn(self, x: Tensor) -> Tensor:
        """Returns the output, (B, out_channels, D, *S), one slice after the other; the same as `at_once`."""
        slices = [_channels_last(slice_) for slice_ in x.unbind(2)]
        reverse = [*self.scan(self.layer.reverse_net, reversed(slices))]
        forward = self.scan(self.layer.forward_net, slices)
        outputs = [self.join(both) for both in zip(forward, reversed(reverse), strict=True)]
        return torch.stack(outputs, dim=2).unflatten(-1, x.shape[3:])

    def scan(self, net: DirectionNet, slices: Iterable[Tensor]) -> Iterator[Factors]:
        """Yields one direction's attention for each of the slices, (B, in_channels, *S), in its order."""
        cells = net.cells
        nothing: list[Any] = [None] * len(cells)
        earlier: list[list[Any]] = []  # the states of the slice before, by step and layer
        for x in slices:
            first_gates = cells[0].input_half(x)  # shared by all steps
            states: list[list[Any]] = []
            for step in range(self.steps):
                if step == 0:
                    before = nothing
                elif self.sequence == "repeat" or (self.boundary == "replicate" and not earlier):
                    before = states[-1]
                else:
                    before = earlier[step - 1] if earlier else nothing
                current: list[Any] = []
                for layer, cell in enumerate(cells):
                    gates = cell.input_half(current[-1].h) if layer else first_gates
                    current.append(cell.step(gates, before[layer]))
                states.append(current)
            earlier = states
            yield net.attention.factors(states[-1][-1])

    def at_once(self, x: Tensor) -> Tensor:
        """Returns the output, (B, out_channels, D, *S), without a loop over slices.

        The directions are an axis of their own inside: states are (B D, 2, hidden, *S).
        """
        depth = x.shape[2]
        slices = x.transpose(1, 2).flatten(0, 1)  # (B D, in_channels, *S)
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
        nets = self.layer.forward_net, self.layer.reverse_net
        both = [net.attention.factors(ConvLSTMState(*(x[:, way] for x in states[-1]))) for way, net in enumerate(nets)]
        return self.join(both).unflatten(-1, x.shape[3:]).unflatten(0, (-1, depth)).transpose(1, 2)

    def join(self, factors: Iterable[Factors]) -> Tensor:
        """Returns Conv1x1([Y_forward ; Y_reverse]), (B, out_channels, N), from the factors of both Y = A V.

        (W A) V in place of W (A V): the product of the two small matrices saves one with all pixels.
        """
        out = widened(self.output_convolution.bias).unsqueeze(-1)
        weights = widened(self.output_convolution.weight).flatten(1).chunk(2, dim=1)
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
        return _Neighbours.apply(state.unflatten(0, (-1, depth)), self.boundary == "replicate").flatten(0, 1)


class _Neighbours(torch.autograd.Function):
    """The states (B, D, 2, hidden, *S) of the slices before (direction 0) and after (1), without a copy too many."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, replicate: bool) -> Tensor:
        ctx.replicate = replicate
        shifted = torch.zeros_like(state)
        shifted[:, 1:, 0] = state[:, :-1, 0]
        shifted[:, :-1, 1] = state[:, 1:, 1]
        if replicate:
            shifted[:, 0, 0] = state[:, 0, 0]
            shifted[:, -1, 1] = state[:, -1, 1]
        return shifted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The transpose of forward.
        gradient = torch.zeros_like(gradients[0])
        gradient[:, :-1, 0] = gradients[0][:, 1:, 0]
        gradient[:, 1:, 1] = gradients[0][:, :-1, 1]
        if ctx.replicate:
            gradient[:, 0, 0] += gradients[0][:, 0, 0]
            gradient[:, -1, 1] += gradients[0][:, -1, 1]
        return gradient, None


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_CHANNELS_LAST.get(x.dim(), torch.contiguous_format))


def split_directions(gates: Tensor) -> Tensor:
    """Splits gates of both directions, (N, 8 hidden, *S), into (N, 2, 4 hidden, *S)."""
    return gates.unflatten(1, (2, -1))
