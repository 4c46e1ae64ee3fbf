"""Watching a network while it runs: what its encoder returns, what its blocks add, and the states and matrices inside.

Nothing is computed a second time or in another way. For as long as it is watched, a block's own `contribution` and its
attentions' own `factors` are called through functions that look at what goes in and comes out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_salstm.evaluation.features import (
    OPEN,
    Gate,
    GateValues,
    Mean,
    distance_from_identity,
    distance_from_uniform,
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


@dataclass(frozen=True)
class Features:
    """What is said about feature maps; None where they are zero everywhere.

    Attributes:
        sparsity: Hoyer's, mean over channels and tiles.
        magnitude: mean absolute value.
    """

    sparsity: float | None
    magnitude: float | None


@dataclass(frozen=True)
class AttentionFindings:
    """What is said about one direction's attention matrices.

    Attributes:
        entropy, from_identity, from_uniform: means over the matrices; the entropy is None for a single channel.
        matrix: the mean matrix, (C, C).
    """

    entropy: float | None
    from_identity: float
    from_uniform: float
    matrix: Tensor


@dataclass(frozen=True)
class ModuleFindings:
    """What is said about a stage's module.

    Attributes:
        output: what it adds, on its own grid.
        contribution: |block(x) - x|_2 / |x|_2, None where x is zero.
        gates: by name, {} for a module without an LSTM.
        attention: by direction, {} for a module without attention.
    """

    output: Features
    contribution: float | None
    gates: dict[str, Gate]
    attention: dict[str, AttentionFindings]


@dataclass(frozen=True)
class StageFindings:
    """What is said about one stage of the encoder in one case.

    Attributes:
        before, after: the stage's skip before and after the block; equal where there is none.
        module: the block's, None where there is none.
    """

    before: Features
    after: Features
    module: ModuleFindings | None


class _FeatureValues:
    def __init__(self) -> None:
        self.sparsity, self.magnitude = Mean(), Mean()

    def add(self, x: Tensor) -> None:
        self.sparsity.add(sparsity(x))
        self.magnitude.add(magnitude(x))

    @property
    def result(self) -> Features:
        return Features(self.sparsity.value, self.magnitude.value)


class _AttentionValues:
    def __init__(self) -> None:
        self.entropy, self.from_identity, self.from_uniform = Mean(), Mean(), Mean()
        self.total: Any = 0.0
        self.count = 0

    def add(self, matrix: Tensor) -> None:
        self.entropy.add(entropy(matrix))
        self.from_identity.add(distance_from_identity(matrix))
        self.from_uniform.add(distance_from_uniform(matrix))
        self.total = self.total + matrix.double().sum(0).cpu()
        self.count += len(matrix)

    @property
    def result(self) -> AttentionFindings:
        identity, uniform = (mean.total / mean.count for mean in (self.from_identity, self.from_uniform))
        return AttentionFindings(self.entropy.value, identity, uniform, self.total / self.count)


class _ModuleValues:
    """What one block's module does, for one sample a tile, as nnU-Net predicts.

    Attributes:
        maps: |contribution|_2 over the channels on the block's grid, (*ceil(S / stride)), for each tile.
    """

    def __init__(self) -> None:
        self.output = _FeatureValues()
        self.added = self.there = 0.0
        self.voxels = 0
        self.gates = {name: GateValues(-OPEN) if name == "g" else GateValues() for name in GATES}
        self.attention: dict[str, _AttentionValues] = defaultdict(_AttentionValues)
        self.maps: list[Tensor] = []

    def contribution(self, block: SALSTMBlock, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Stands in for the block's own `contribution`."""
        contribution = compute(x)
        current = x[: len(contribution)]  # in 2.5D the other frames follow
        per_cell = torch.linalg.vector_norm(contribution, dim=1, keepdim=True)
        nothing = per_cell.new_zeros(len(current), 1, *current.shape[2:])
        self.output.add(contribution)
        self.added += squared_norm(add_upsampled(nothing, per_cell, block.stride))
        self.there += squared_norm(current)
        self.voxels += nothing.numel()
        self.maps.append(per_cell[0, 0].cpu())
        return contribution

    def factors(
        self, block: SALSTMBlock, direction: str, compute: Callable[[ConvLSTMState], Factors], state: ConvLSTMState
    ) -> Factors:
        """Stands in for an attention's own `factors`."""
        matrix, value = compute(state)
        # Of three frames only the current one's output is used: the middle one.
        used = slice(1, None, NUM_FRAMES) if isinstance(block, FrameBlock) else slice(None)
        for name in GATES:
            self.gates[name].add(getattr(state, name)[used])
        if matrix.dim() == 3:  # else the attention is off
            self.attention[direction].add(matrix[used])
        return matrix, value

    @property
    def result(self) -> ModuleFindings:
        gates = {name: values.result for name, values in self.gates.items() if values.mean.count}
        contribution = (self.added / self.there) ** 0.5 if self.there else None
        attention = {direction: values.result for direction, values in self.attention.items()}
        return ModuleFindings(self.output.result, contribution, gates, attention)


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
        self._before: dict[int, _FeatureValues] = defaultdict(_FeatureValues)
        self._after: dict[int, _FeatureValues] = defaultdict(_FeatureValues)
        self._modules = {stage: _ModuleValues() for stage in self.blocks}

    @property
    def findings(self) -> list[StageFindings]:
        """What is said about each stage, the full resolution first."""
        return [
            StageFindings(before.result, self._after[stage].result, self._modules[stage].result)
            if stage in self.blocks
            else StageFindings(before.result, before.result, None)
            for stage, before in sorted(self._before.items())
        ]

    def maps(self, stage: int) -> list[Tensor]:
        """Returns the size of a stage's contribution on its block's grid, for each tile.

        It is |contribution|_2 over the channels, in units of the root mean square of the skip's |x|_2.
        """
        seen = self._modules[stage]
        typical = (seen.there / seen.voxels) ** 0.5
        return [tile / typical if typical else tile for tile in seen.maps]

    def _see(self, last: nn.Module, inputs: tuple[Any], skips: Sequence[Tensor]) -> None:
        """Sees what goes into the blocks and what comes out, as a forward hook of theirs or of the encoder."""
        before = inputs[0] if self.blocks else skips
        for stage, skip in enumerate(before):
            self._before[stage].add(skip[: len(skip) // self.frames])
        for stage in self.blocks:
            self._after[stage].add(skips[stage])

    def _contribution(self, stage: int, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self._modules[stage].contribution(self.blocks[stage], compute, x)

    def _factors(
        self, stage: int, direction: str, compute: Callable[[ConvLSTMState], Factors], state: ConvLSTMState
    ) -> Factors:
        return self._modules[stage].factors(self.blocks[stage], direction, compute, state)

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
