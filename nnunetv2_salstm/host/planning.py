"""Plans of a data set copied with blocks in their networks, and what training with them takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.fit import Fit, Training
from nnunetv2_salstm.host.frames import channels_of_a_frame
from nnunetv2_salstm.host.memory import MemoryEstimate
from nnunetv2_salstm.plans import add_to_plans, resolve, without_salstm


@dataclass(frozen=True)
class Planned:
    """One configuration with blocks.

    Attributes:
        name: of the configuration.
        values: what changes in it.
        stock: GB that the stock network was estimated to take.
        asked: GB with the blocks that were asked for.
        gigabytes: GB with those that it got.
        changes: in words, what was made smaller.
    """

    name: str
    values: dict[str, Any]
    stock: float
    asked: float
    gigabytes: float
    changes: list[str]


def plan_blocks(source: BenchPlan, demanded: Mapping[str, Any], target: float | None = None) -> Planned:
    """Returns a configuration of stock plans with blocks, smaller ones if a target of memory demands that.

    Args:
        source: the configuration.
        demanded: values of `SALSTMConfig`.
        target: GB that training may take; None leaves blocks, batch and patch as they are.

    Raises:
        SalstmError: if the blocks do not fit the network, or the target is too small.
    """
    plans, configuration = source.plans, source.configuration
    classes = PlansManager(plans).get_label_manager(source.dataset_json).num_segmentation_heads
    try:
        stock = resolve(plans, configuration)
        resolved = resolve(add_to_plans(plans, configuration, demanded), configuration)
    except ValueError as error:
        raise SalstmError(str(error)) from None
    architecture = resolved["architecture"]
    config = SALSTMConfig.from_json(architecture["arch_kwargs"]["salstm"])
    if config.frames > 1:
        try:
            channels_of_a_frame(source.dataset_json)
        except ValueError as error:
            raise SalstmError(f"{configuration}: {error}") from None
    asked = Training(config, tuple(resolved["patch_size"]), resolved["batch_size"])
    # Plans made by hand may not have it.
    median_size = resolved.get("median_image_size_in_voxels", asked.patch_size)
    fit = Fit(architecture, asked, median_size, classes)
    try:
        taken = asked if target is None else fit.search(target)
        memory = MemoryEstimate(without_salstm(architecture), classes)
        before = memory.gigabytes(stock["patch_size"], stock["batch_size"])
        sizes = fit.gigabytes(asked), fit.gigabytes(taken)
    except SalstmError as error:
        raise SalstmError(f"{configuration}: {error}") from None
    except Exception as error:
        # Whatever the network's parts say to values that are not theirs.
        raise SalstmError(f"{configuration}: its network cannot be built: {type(error).__name__}: {error}") from error
    values = {
        "architecture": fit.architecture(taken),
        "batch_size": taken.batch_size,
        "patch_size": list(taken.patch_size),
    }
    return Planned(configuration, values, before, *sizes, taken.changes(asked))


def with_blocks(plans: Mapping[str, Any], name: str, planned: Sequence[Planned]) -> tuple[dict[str, Any], list[str]]:
    """Returns a copy of the plans under another name, with blocks in these configurations, and notes on the others.

    Others stay what they were, also if they inherit from one of these.
    """
    configurations = dict(plans["configurations"])
    for one in planned:
        configurations[one.name] = {**configurations[one.name], **one.values}
    made = {**plans, "plans_name": name, "configurations": configurations}
    notes = []
    for other in configurations.keys() - {one.name for one in planned}:
        try:
            before, after = resolve(plans, other), resolve(made, other)
        except ValueError as error:
            notes.append(f"{other} is copied as it is: {error}")
            continue
        kept = {key: before[key] for key in planned[0].values if before.get(key) != after.get(key)}
        if kept:
            configurations[other] = {**configurations[other], **kept}
            parent = configurations[other]["inherits_from"]
            notes.append(f"{other} inherits from {parent} and gets no blocks: it keeps its network, batch and patch")
    return made, sorted(notes)
