"""Making blocks, batch and patch smaller until training fits into memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.memory import MemoryEstimate
from nnunetv2_salstm.plans import SMALLEST_BATCH, channels_per_stage

# Of a block's channels; a stage of 32 channels then has blocks of 2.
LARGEST_REDUCTION = 16
# Of the bottleneck's feature maps on the axes that are pooled. Below 4 nnU-Net's planner would take a stage away; here
# the network stays, so that checkpoints of the planned one fit.
SMALLEST_EDGE = 2


@dataclass(frozen=True)
class Training:
    """What decides about the memory that training takes: blocks, patch and batch."""

    config: SALSTMConfig
    patch_size: tuple[int, ...]
    batch_size: int

    def changes(self, planned: "Training") -> list[str]:
        """Returns in words what differs from the planned training."""
        words = {
            "grid": "grid (stages below a block's own)",
            "reduction": "reduction (of a block's channels)",
            "max_hidden_channels": "most channels of a block",
            "placement": "placement (stages with a block)",
        }
        found = [
            f"{text} {_shown(getattr(planned.config, name))} -> {_shown(getattr(self.config, name))}"
            for name, text in words.items()
            if getattr(planned.config, name) != getattr(self.config, name)
        ]
        if self.batch_size != planned.batch_size:
            found.append(f"batch size {planned.batch_size} -> {self.batch_size}")
        if self.patch_size != planned.patch_size:
            found.append(f"patch size {_shown(planned.patch_size)} -> {_shown(self.patch_size)} voxels")
        return found


class Fit:
    """The search for the training that fits, with the network of one configuration.

    Args:
        architecture: of the configuration, with blocks.
        planned: what is to be trained if there is room.
        median_size: of the data set's images in voxels; where the patch covers most of it, it shrinks first.
        classes: number of labels, the background too.
    """

    def __init__(self, architecture: Mapping[str, Any], planned: Training, median_size: Sequence[float], classes: int):
        self.planned = planned
        self._classes = classes
        self._architecture = architecture
        self._median_size = median_size
        self._estimates: dict[SALSTMConfig, MemoryEstimate] = {}

    def gigabytes(self, training: Training) -> float:
        """Returns nnU-Net's estimate for a training."""
        if training.config not in self._estimates:
            self._estimates[training.config] = MemoryEstimate(self.architecture(training), self._classes)
        return self._estimates[training.config].gigabytes(training.patch_size, training.batch_size)

    def architecture(self, training: Training) -> dict[str, Any]:
        """Returns the architecture with the blocks of a training."""
        arguments = {**self._architecture["arch_kwargs"], "salstm": training.config.to_json()}
        return {**self._architecture, "arch_kwargs": arguments}

    def search(self, target: float) -> Training:
        """Returns the first training that keeps the target, in GB, of ever smaller ones.

        First the blocks become smaller. If that is not enough, the planned blocks stay and the batch shrinks, which
        nnU-Net fills memory with; at the smallest batch the blocks become smaller again. The patch comes last.

        Raises:
            SalstmError: if even the smallest patch passes the target; says what it needs.
        """
        for training in self._smaller():
            if self.gigabytes(training) <= target:
                return training
        raise SalstmError(
            f"--gpu-memory-target {target:g} GB is too small: the smallest patch of this network, "
            f"{_shown(training.patch_size)} voxels with batch size {training.batch_size}, needs "
            f"{self.gigabytes(training):.2f} GB; raise the target, or plan a smaller network with "
            "nnUNetv2_plan_experiment -gpu_memory_target"
        )

    def _smaller(self) -> Iterator[Training]:
        planned = self.planned
        smallest = min(planned.batch_size, SMALLEST_BATCH)
        for config in self._smaller_blocks():
            yield replace(planned, config=config)
        for batch_size in range(planned.batch_size - 1, smallest - 1, -1):
            yield replace(planned, batch_size=batch_size)
        for patch_size in self._smaller_patches():
            for config in self._smaller_blocks():
                yield Training(config, patch_size, smallest)

    def _smaller_blocks(self) -> Iterator[SALSTMConfig]:
        """Yields the planned blocks, then on coarser grids, then of fewer channels too, then at fewer stages too."""
        arguments = self._architecture["arch_kwargs"]
        stages = arguments["n_stages"]
        config = self.planned.config
        yield config
        while config.grid < stages - 1:
            config = replace(config, grid=config.grid + 1)
            yield config
        channels = channels_per_stage(arguments)
        while 2 * config.reduction <= LARGEST_REDUCTION and all(
            channels[stage] % (2 * config.reduction) == 0 for stage in config.stages(stages)
        ):
            most = max(1, config.max_hidden_channels // 2)
            config = replace(config, reduction=2 * config.reduction, max_hidden_channels=most)
            yield config
        # The stages of highest resolution take the most.
        while len(config.stages(stages)) > 1:
            config = replace(config, placement=config.stages(stages)[1:])
            yield config

    def _smaller_patches(self) -> Iterator[tuple[int, ...]]:
        """Yields the planned patch and smaller ones that the network's strides divide, as nnU-Net's planner does."""
        strides = self._architecture["arch_kwargs"]["strides"]
        divisors = [math.prod(axis) for axis in zip(*strides, strict=True)]
        least = [SMALLEST_EDGE * divisor if divisor > 1 else 1 for divisor in divisors]
        patch_size = list(self.planned.patch_size)
        while True:
            yield tuple(patch_size)
            can_shrink = [axis for axis, divisor in enumerate(divisors) if patch_size[axis] - divisor >= least[axis]]
            if not can_shrink:
                return
            axis = max(can_shrink, key=lambda axis: patch_size[axis] / self._median_size[axis])
            patch_size[axis] -= divisors[axis]


def _shown(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
