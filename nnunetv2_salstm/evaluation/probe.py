"""Watching a network while it runs: what its encoder returns, what its blocks add, and the states and matrices inside.

Nothing is computed a second time or in another way. For as long as it is watched, a block's own `contribution` and its
attentions' own `factors` are called through functions that look at what goes in and comes out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_salstm.evaluation.features import (
    CLOSED,
    OPEN,
    Mean,
    distance_from_identity,
    distance_from_uniform,
    effective_rank,
    entropy,
    magnitude,
    sparsity,
    squared_norm,
)
from nnunetv2_salstm.nn import SALSTMBlock, SliceSALSTM
from nnunetv2_salstm.nn.convlstm import ConvLSTMState
from nnunetv2_salstm.nn.frames import NUM_FRAMES, FrameBlock
from nnunetv2_salstm.nn.pooling import add_upsampled
from nnunetv2_salstm.nn.slices import Factors

GATES = ("i", "f", "o", "g")
DIRECTIONS = ("forward", "reverse")
# The numbers about a stage: of its skip before and after the block, of what the module adds, of gates and attention.
NUMBERS = (
    *(f"{kind}_{name}" for kind in ("before", "after", "module") for name in ("sparsity", "magnitude")),
    "contribution",
    *(f"{gate}_{name}" for gate in GATES for name in ("mean", "deviation", "low", "high")),
    *(
        f"{direction}_{name}"
        for direction in DIRECTIONS
        for name in ("entropy", "from_identity", "from_uniform", "rank", "rank_kept")
    ),
)


class StageValues:
    """What was seen of one stage, for one sample a tile, as nnU-Net predicts.

    Attributes:
        maps: |contribution|_2 over the channels on the block's grid, (*ceil(S / stride)), for each tile.
        matrices: the attention matrices' sum and number, by direction.
    """

    def __init__(self) -> None:
        self._means: dict[str, Mean] = defaultdict(Mean)
        self.added = self.there = 0.0
        self.voxels = 0
        self.maps: list[Tensor] = []
        self.matrices: dict[str, tuple[Tensor, int]] = {}

    def add_features(self, kind: str, x: Tensor) -> None:
        """Adds feature maps, (B, C, *S), of the kind "before", "after" or "module"."""
        self._means[f"{kind}_sparsity"].add(sparsity(x))
        self._means[f"{kind}_magnitude"].add(magnitude(x))

    def add_gate(self, gate: str, values: Tensor) -> None:
        """Adds values of a gate."""
        self._means[f"{gate}_mean"].add(values)
        self._means[f"{gate}_deviation"].add(values.square())  # until `numbers`
        self._means[f"{gate}_low"].add((values < (-OPEN if gate == "g" else CLOSED)).float())
        self._means[f"{gate}_high"].add((values > OPEN).float())

    def add_attention(self, direction: str, matrix: Tensor, value: Tensor) -> None:
        """Adds attention matrices, (B, C, C), and what they choose from, (B, C, N)."""
        self._means[f"{direction}_entropy"].add(entropy(matrix))
        self._means[f"{direction}_from_identity"].add(distance_from_identity(matrix))
        self._means[f"{direction}_from_uniform"].add(distance_from_uniform(matrix))
        self._means[f"{direction}_rank"].add(effective_rank(matrix))
        self._means[f"{direction}_rank_kept"].add(effective_rank(matrix @ value) / effective_rank(value))
        total, count = self.matrices.get(direction, (0.0, 0))
        self.matrices[direction] = total + matrix.double().sum(0).cpu(), count + len(matrix)

    def numbers(self) -> dict[str, float | None]:
        """Returns those of NUMBERS that the stage has; None where its maps are zero everywhere."""
        numbers = {name: mean.value for name, mean in self._means.items()}
        for gate in GATES:
            mean, square = numbers.get(f"{gate}_mean"), numbers.get(f"{gate}_deviation")
            if mean is not None and square is not None:
                # Rounding may leave less than nothing.
                numbers[f"{gate}_deviation"] = max(square - mean**2, 0.0) ** 0.5
        if self.there:
            numbers["contribution"] = (self.added / self.there) ** 0.5
        return numbers


class Probe:
    """What has been seen of a network since the last `clear`.

    Args:
        network: has `.encoder`, which returns the list of skips, and our blocks as `.salstm` or none.
    """

    def __init__(self, network: nn.Module):
        # What hands skips to the decoder: the blocks, or the encoder of a network without.
        self.last: Any = getattr(network, "salstm", network.encoder)
        blocks: Any = getattr(network, "salstm", {})
        self.blocks: dict[int, SALSTMBlock] = {int(stage): block for stage, block in blocks.items()}
        self.frames = getattr(blocks, "frames", 1)
        self.clear()

    def clear(self) -> None:
        """Forgets what was seen."""
        self._stages: dict[int, StageValues] = defaultdict(StageValues)

    def numbers(self) -> list[dict[str, float | None]]:
        """Returns those of NUMBERS that each stage has, the full resolution first."""
        return [self._stages[stage].numbers() for stage in sorted(self._stages)]

    def matrices(self) -> dict[tuple[int, str], Tensor]:
        """Returns the mean attention matrices, (C, C), by stage and direction."""
        return {
            (stage, direction): total / count
            for stage, seen in sorted(self._stages.items())
            for direction, (total, count) in seen.matrices.items()
        }

    def maps(self, stage: int) -> list[Tensor]:
        """Returns the size of a stage's contribution on its block's grid, for each tile.

        It is |contribution|_2 over the channels, in units of the root mean square of the skip's |x|_2.
        """
        seen = self._stages[stage]
        typical = (seen.there / seen.voxels) ** 0.5
        return [tile / typical if typical else tile for tile in seen.maps]

    def _see(self, last: nn.Module, inputs: tuple[Any], skips: Sequence[Tensor]) -> None:
        """Sees what goes into the blocks and what comes out, as a forward hook of theirs or of the encoder."""
        for stage, (before, after) in enumerate(zip(inputs[0] if self.blocks else skips, skips, strict=True)):
            self._stages[stage].add_features("before", before[: len(before) // self.frames])
            self._stages[stage].add_features("after", after)

    def _contribution(self, stage: int, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Stands in for a block's own `contribution`."""
        contribution, seen = compute(x), self._stages[stage]
        current = x[: len(contribution)]  # in 2.5D the other frames follow
        per_cell = torch.linalg.vector_norm(contribution, dim=1, keepdim=True)
        nothing = per_cell.new_zeros(len(current), 1, *current.shape[2:])
        seen.add_features("module", contribution)
        seen.added += squared_norm(add_upsampled(nothing, per_cell, self.blocks[stage].stride))
        seen.there += squared_norm(current)
        seen.voxels += nothing.numel()
        seen.maps.append(per_cell[0, 0].cpu())
        return contribution

    def _factors(
        self, stage: int, direction: str, compute: Callable[[ConvLSTMState], Factors], state: ConvLSTMState
    ) -> Factors:
        """Stands in for an attention's own `factors`."""
        matrix, value = compute(state)
        # Of three frames only the current one's output is used: the middle one.
        used = slice(1, None, NUM_FRAMES) if isinstance(self.blocks[stage], FrameBlock) else slice(None)
        for gate in GATES:
            self._stages[stage].add_gate(gate, getattr(state, gate)[used])
        if matrix.dim() == 3:  # else the attention is off
            self._stages[stage].add_attention(direction, matrix[used], value[used])
        return matrix, value

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the network in this context; what it returns stays what it was."""
        with ExitStack() as stack:
            stack.callback(self.last.register_forward_hook(self._see).remove)
            for stage, block in self.blocks.items():
                _replace(stack, block, "contribution", partial(self._contribution, stage, block.contribution))
                if isinstance(block.layer, SliceSALSTM):
                    nets = block.layer.layer.forward_net, block.layer.layer.reverse_net
                    for direction, net in zip(DIRECTIONS, nets, strict=True):
                        factors = partial(self._factors, stage, direction, net.attention.factors)
                        _replace(stack, net.attention, "factors", factors)
            yield


def _replace(stack: ExitStack, module: nn.Module, method: str, function: Callable[..., Any]) -> None:
    """Hides a method of one module behind a function until the stack closes."""
    setattr(module, method, function)
    stack.callback(delattr, module, method)
