"""The authors' bidirectional layer, for one slice and its two neighbours."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from nnunetv2_salstm.nn.attention import Attention, GatedStateAttention, StateAttention
from nnunetv2_salstm.nn.convlstm import CONVOLUTIONS, ConvLSTMCell, ConvLSTMState, convolve
from nnunetv2_salstm.nn.precision import to_float32, without_autocast

MODULES: dict[str, type[StateAttention]] = {"A": StateAttention, "B": GatedStateAttention}


class DirectionNet(nn.Module):
    """One direction of the layer: stacked ConvLSTM cells and the attention over the last cell's states.

    Parameters are named as the authors name them: `cell0.conv.*`, `cell1.conv.*`, ..., `attention.*`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int,
        num_layers: int,
        spatial_dims: int,
        attention: Callable[[int], Attention],
    ):
        super().__init__()
        self.num_layers = num_layers
        for layer in range(num_layers):
            cell = ConvLSTMCell(
                in_channels if layer == 0 else hidden_channels, hidden_channels, kernel_size, spatial_dims
            )
            self.add_module(f"cell{layer}", cell)
        self.attention = attention(hidden_channels)

    @property
    def cells(self) -> list[ConvLSTMCell]:
        """The cells, first layer first."""
        return [self.get_submodule(f"cell{layer}") for layer in range(self.num_layers)]  # type: ignore[misc]

    def forward(self, sequence: list[Tensor]) -> Tensor:
        """Returns Y, (B, hidden, *S), after the inputs of `sequence`, each (B, C, *S), first to last."""
        states: list[ConvLSTMState | None] = [None] * self.num_layers
        for x in sequence:
            for layer, cell in enumerate(self.cells):
                state = cell(x, states[layer])
                states[layer], x = state, state.h
        attended: Tensor = self.attention(states[-1])
        return attended


class SALSTM(nn.Module):
    """SA-LSTM layer: the features of a slice, seen with those of its two neighbours (Ji et al. 2024).

    The forward net reads (previous, current), the reverse net (next, current), each with weights of its own; their
    attended states are joined: out = Conv1x1([Y_forward ; Y_reverse]). Equal to the authors' layer to rounding,
    except that B's gates start near 1 (see `GatedStateAttention`). Computes in float32 even under autocast.

    Args:
        in_channels: channels of each slice's features.
        hidden_channels: channels of the LSTM states; they need not equal in_channels.
        out_channels: channels of the output (the authors' number of classes).
        kernel_size: odd edge length in pixels.
        num_layers: stacked ConvLSTM cells; the last one's states are attended.
        module: "A", "B", or a callable that makes a `StateAttention` (or `StateValue`) from hidden_channels.
        attention_size: a in the scale 1 / sqrt(a) of the logits; None takes the number of pixels. The published
            ACDC training has 88 * 88. It is not stored in a checkpoint. Only for modules given by name.
        spatial_dims: 1, 2 or 3, the axes of one slice.

    Raises:
        ValueError: for an unknown module, an attention_size with a module that is not given by name, sizes below 1,
            or an even kernel.

    Examples:
        >>> layer = SALSTM(in_channels=4, hidden_channels=8, out_channels=3, kernel_size=3, module="B")
        >>> previous, current, following = torch.zeros(3, 1, 4, 12, 10)
        >>> tuple(layer(previous, current, following).shape)
        (1, 3, 12, 10)
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        num_layers: int = 1,
        module: str | Callable[[int], Attention] = "A",
        attention_size: float | None = None,
        spatial_dims: int = 2,
    ):
        super().__init__()
        if isinstance(module, str):
            if module not in MODULES:
                raise ValueError(f"module must be one of {', '.join(MODULES)}, got {module!r}")
            attention: Callable[[int], Attention] = partial(MODULES[module], attention_size=attention_size)
        elif attention_size is not None:
            raise ValueError(f"attention_size needs a module given by name, got {attention_size} and {module}")
        else:
            attention = module
        for name, value in (("out_channels", out_channels), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.spatial_dims = spatial_dims
        direction = partial(
            DirectionNet, in_channels, hidden_channels, kernel_size, num_layers, spatial_dims, attention
        )
        self.forward_net = direction()
        self.reverse_net = direction()
        self.conv = CONVOLUTIONS[spatial_dims](2 * hidden_channels, out_channels, 1)

    def reset_parameters(self) -> None:
        """Draws every parameter anew, as at construction."""
        for direction in (self.forward_net, self.reverse_net):
            for cell in direction.cells:
                cell.conv.reset_parameters()
            reset = getattr(direction.attention, "reset_parameters", None)
            if reset is not None:
                reset()
        self.conv.reset_parameters()

    def join(self, attended: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the output, (B, out_channels, *S), from Y of the forward and the reverse net, (B, 2 hidden, *S)."""
        return convolve(attended, self.conv.weight, self.conv.bias).to(dtype)

    def forward(self, prev: Tensor | None, cur: Tensor, next: Tensor | None) -> Tensor:
        """Returns the output for the current slice, (B, out_channels, *S), in its dtype.

        Args:
            prev: features of the slice before, (B, in_channels, *S); None where there is none (that step is left out).
            cur: features of the slice itself, of the same shape.
            next: features of the slice after, of the same shape, or None.

        Raises:
            ValueError: if the shapes differ, or do not have in_channels channels and spatial_dims axes.
        """
        for name, neighbour in (("prev", prev), ("next", next)):
            if neighbour is not None and neighbour.shape != cur.shape:
                raise ValueError(
                    f"{name} must have the shape of cur, got {tuple(neighbour.shape)} and {tuple(cur.shape)}"
                )
        with without_autocast(cur):
            current = to_float32(cur)
            forward = self.forward_net([current] if prev is None else [to_float32(prev), current])
            reverse = self.reverse_net([current] if next is None else [to_float32(next), current])
            return self.join(torch.cat([forward, reverse], dim=1), cur.dtype)

    def load_authors_state_dict(self, state_dict: Mapping[str, Tensor]) -> int:
        """Loads a checkpoint of the authors' code and returns how many of its keys were ignored.

        Keys may carry the prefixes `module.` and `lstmlayer.`; those of their encoder (`encoder.*`) are ignored, which
        a line of the log of the caller should say. The attention size is not in a checkpoint: give it at construction.

        Raises:
            ValueError: if a key is missing, unknown, or of another shape.
        """
        ours, ignored = {}, 0
        for key, value in state_dict.items():
            key = key.removeprefix("module.")
            if key.startswith("encoder."):
                ignored += 1
            else:
                ours[key.removeprefix("lstmlayer.")] = value
        expected = self.state_dict()
        problems = [f"missing {key}" for key in expected if key not in ours]
        problems += [f"unknown {key}" for key in ours if key not in expected]
        problems += [
            f"{key} is {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
            for key, value in ours.items()
            if key in expected and value.shape != expected[key].shape
        ]
        if problems:
            raise ValueError(
                f"state_dict must fit this layer (module, hidden_channels, num_layers, ...), got {len(problems)} "
                f"differences, the first: {'; '.join(problems[:3])}"
            )
        self.load_state_dict(ours)
        return ignored
