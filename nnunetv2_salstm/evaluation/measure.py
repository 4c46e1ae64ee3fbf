"""Measuring trainers: nnU-Net's own training step and inference tile on synthetic data."""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_salstm.evaluation.peak_memory import measure_growth
from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.host.frames import KEY, with_neighbours

# So many seconds of tiles are in a round at least, as the scheduler blurs single ones.
SHORTEST_MEASUREMENT = 2.0
MOST_TILES = 200
# The second training step is the first with the optimiser's momentum.
WARM_UP_STEPS = 2


class Subject:
    """A trainer of nnU-Net with its network, optimiser and loss, and a batch to train on.

    Args:
        trainer: name of the trainer, ours or any that nnU-Net finds; a 2.5D one gets the plan's data with neighbours.
        plan: what to build.
        device: "cpu", "cuda" or "mps".
        batch_size: upper bound of the batch, None for the plans'.
    """

    def __init__(self, trainer: str, plan: BenchPlan, device: str, batch_size: int | None = None):
        plans = deepcopy(plan.plans)
        plans["continue_training"] = False  # as nnU-Net's command line adds
        found: Any = recursive_find_trainer_class_by_name(trainer)
        dataset_json = plan.dataset_json
        if _reads_frames(found) and KEY not in dataset_json:
            dataset_json = with_neighbours(dataset_json)
        self.trainer = found(plans, plan.configuration, 0, dataset_json, torch.device(device))
        if batch_size is not None:
            values = self.trainer.configuration_manager.configuration
            values["batch_size"] = min(batch_size, values["batch_size"])
        _pretend_preprocessed(Path(self.trainer.preprocessed_dataset_folder))
        self.trainer.initialize()
        self.batch = self._make_batch()
        self.tile = self.batch["data"][:1].to(self.trainer.device)

    @property
    def network(self) -> nn.Module:
        """The network without torch.compile."""
        network: nn.Module = getattr(self.trainer.network, "_orig_mod", self.trainer.network)
        return network

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        return len(self.batch["data"])

    @property
    def is_compiled(self) -> bool:
        """Whether nnU-Net compiles the network for training."""
        return self.network is not self.trainer.network

    def train_step(self) -> None:
        """Makes one training step, nnU-Net's own."""
        self.trainer.train_step(self.batch)
        self.wait()

    def prepare_inference(self) -> None:
        """Turns the network into what predicts; there is no way back."""
        self.trainer.optimizer.zero_grad(set_to_none=True)
        self.trainer.set_deep_supervision_enabled(False)
        self.trainer.network.eval()

    def infer(self) -> None:
        """Predicts one tile, under nnU-Net's autocast, and compiled if nnUNet_compile asks for it, as its predictor."""
        wanted = os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t")
        network = self.trainer.network if wanted else self.network
        device = self.trainer.device.type
        with torch.inference_mode(), torch.autocast(device) if device == "cuda" else nullcontext():
            network(self.tile)
        self.wait()

    def wait(self) -> None:
        """Waits for the device."""
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.trainer.device.type == "mps":
            torch.mps.synchronize()

    def count_flops(self) -> int:
        """Returns the FLOPs of the forward pass of one tile."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.network(self.tile)
        return int(counter.get_total_flops())

    def _make_batch(self) -> dict[str, Any]:
        """Returns random data and labels, the labels at all of deep supervision's resolutions as nnU-Net hands them."""
        trainer = self.trainer
        patch, batch = trainer.configuration_manager.patch_size, trainer.batch_size
        data = torch.randn(batch, trainer.num_input_channels, *patch)
        scales = trainer._get_deep_supervision_scales()
        if scales is None:
            return {"data": data, "target": self._labels(batch, patch)}
        sizes = ([round(edge * factor) for edge, factor in zip(patch, scale, strict=True)] for scale in scales)
        return {"data": data, "target": [self._labels(batch, size) for size in sizes]}

    def _labels(self, batch: int, size: list[int]) -> Tensor:
        manager = self.trainer.label_manager
        if manager.has_regions:
            channels = len(manager.foreground_regions) + manager.has_ignore_label
            return torch.randint(0, 2, (batch, channels, *size), dtype=torch.uint8)
        return torch.randint(0, len(manager.all_labels), (batch, 1, *size), dtype=torch.int16)


def measure_size(
    trainer: str, plan: BenchPlan, device: str, batch_size: int | None, on_step: Callable[[], None]
) -> tuple[Subject, dict[str, float | None]]:
    """Builds a trainer, warms it up and returns it with what it needs.

    That is: parameters; flops of the forward pass of one tile, by torch's counter (convolutions and matrix products);
    peak_memory, the bytes that building the network and two training steps added at most, None where the system does
    not tell; first_step_seconds, compilation included. On the CPU the memory is only right in a fresh process.
    """
    seconds = []

    def build() -> Subject:
        subject = Subject(trainer, plan, device, batch_size)
        for _ in range(WARM_UP_STEPS):
            seconds.append(_seconds(subject.train_step))
            on_step()
        return subject

    subject, growth = measure_growth(device, build)
    return subject, {
        "parameters": sum(parameter.numel() for parameter in subject.network.parameters()),
        "flops": subject.count_flops(),
        "peak_memory": growth,
        "first_step_seconds": seconds[0],
    }


def time_in_turns(
    subjects: dict[str, Subject], repeats: int, on_step: Callable[[], None]
) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of a training step and of an inference tile, `repeats` of each for every subject.

    The subjects take turns in rotating order, so that the machine's moods hit them alike: the n-th values of all
    subjects were measured one right after the other. A value of inference is the median of several tiles.
    """
    training: dict[str, list[float]] = {name: [] for name in subjects}
    for name in _turns(subjects, repeats):
        training[name].append(_seconds(subjects[name].train_step))
        on_step()
    for subject in subjects.values():
        subject.prepare_inference()
    warm_up = {}
    for name, subject in subjects.items():
        subject.infer()  # compiles, chooses algorithms
        warm_up[name] = _seconds(subject.infer)
    shortest = max(min(warm_up.values(), default=1.0), 1e-6)
    tiles = min(MOST_TILES, math.ceil(SHORTEST_MEASUREMENT / shortest))
    inference: dict[str, list[float]] = {name: [] for name in subjects}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    # Tile by tile, as a mood may be shorter than a round.
    for name in _turns(subjects, repeats * tiles):
        seconds[name].append(_seconds(subjects[name].infer))
        if len(seconds[name]) == tiles:
            inference[name].append(median(seconds[name]))
            seconds[name].clear()
            on_step()
    return {name: {"training_step": training[name], "inference_tile": inference[name]} for name in subjects}


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an exception means that memory did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # What torch's allocators on the CPU and on MPS say; they have no class of their own.
    said = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


def release_memory(device: str) -> None:
    """Returns to the device what a failed trainer held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _turns(subjects: dict[str, Subject], rounds: int) -> Iterator[str]:
    names = list(subjects)
    for turn in range(rounds if names else 0):
        first = turn % len(names)
        yield from names[first:] + names[:first]


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _reads_frames(trainer: type) -> bool:
    name = getattr(trainer, "parsed_name", None)
    return name is not None and (name.salstm or {}).get("sequence") == "frames"


def _pretend_preprocessed(folder: Path) -> None:
    """Makes the folder look preprocessed: nnU-Net infers the format of the data from the names of files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.b2nd").touch()
