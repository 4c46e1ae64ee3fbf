"""Rewriting nnU-Net plans: the plans name the network, so that nnU-Net itself builds it everywhere."""

import math
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.config import FRAMES, SALSTMConfig, check_names

# nnU-Net's own lower bound of a planned batch.
SMALLEST_BATCH = 2

# By the class's own name: older plans name the same classes in other modules.
NETWORKS = {
    "PlainConvUNet": "nnunetv2_salstm.networks.SALSTMPlainConvUNet",
    "ResidualEncoderUNet": "nnunetv2_salstm.networks.SALSTMResidualEncoderUNet",
}
# Whose classes these are.
PACKAGES = ("dynamic_network_architectures", "nnunetv2_salstm")
# Lists in the arguments of one network or the other, besides those that both have.
_PER_STAGE = ("n_conv_per_stage", "n_blocks_per_stage")
STOCK_NETWORKS = {name: f"dynamic_network_architectures.architectures.unet.{name}" for name in NETWORKS}


def salstm_of(plans: Mapping[str, Any], configuration: str) -> dict[str, Any] | None:
    """Returns the `salstm` values in the architecture of a configuration of the plans, or None if it has none."""
    return resolve(plans, configuration)["architecture"]["arch_kwargs"].get("salstm")


def add_to_plans(plans: Mapping[str, Any], configuration: str, demanded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of the plans in which a configuration's network is the stock one with SA-LSTM blocks.

    The configuration's `arch_kwargs["salstm"]`, if the user's plans have it, gives the modules; what it leaves out
    comes from `demanded` and then from the defaults. The result holds the whole resolved configuration, so that what
    was trained is rebuilt whatever the defaults are by then. Where `demanded` asks for frames (2.5D), the batch shrinks
    so that three passes of the encoder take the memory that was planned for one; plans that ask for them themselves
    keep their batch.

    Args:
        plans: nnU-Net plans, not changed.
        configuration: name of one of their configurations, e.g. "3d_fullres".
        demanded: values of `SALSTMConfig` that must hold, e.g. {"module": "A"}.

    Raises:
        ValueError: if the values in the plans are wrong, contradict `demanded` or do not fit the network, or the
            network is none that can be extended.
    """
    resolved = resolve(plans, configuration)
    architecture = resolved["architecture"]
    where = f"plans {plans.get('plans_name', '')!r}, configuration {configuration!r}"
    network, package = stock_class(architecture), architecture["network_class_name"].partition(".")[0]
    # Somebody else's class may have the same name.
    if network not in NETWORKS or package not in PACKAGES:
        raise ValueError(
            f"{where}: the network must be one of {', '.join(NETWORKS)}, got {architecture['network_class_name']}; "
            "to extend another one in code see nnunetv2_salstm.networks.add_salstm"
        )
    try:
        architecture["arch_kwargs"] = _per_stage(architecture["arch_kwargs"], len(resolved["patch_size"]))
        channels = channels_per_stage(architecture["arch_kwargs"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}, arch_kwargs: {error}") from None
    given = architecture["arch_kwargs"].get("salstm", {})
    try:
        check_names(given)
        for name, value in demanded.items():
            if given.get(name, value) != value:
                raise ValueError(
                    f"{name} is {given[name]!r} in the plans but the trainer demands {value!r}; "
                    "take the trainer of that name, or other plans"
                )
        config = SALSTMConfig.from_json({**demanded, **given})
        arguments = architecture["arch_kwargs"]
        config = config.resolve(len(resolved["patch_size"]), arguments["n_stages"])
        shrinks = config.frames > 1 and given.get("sequence") != config.sequence
        _require_channels(config, channels, config.stages(arguments["n_stages"]))
    except ValueError as error:
        raise ValueError(f'{where}, arch_kwargs["salstm"]: {error}') from None
    extended = {
        **architecture,
        "network_class_name": NETWORKS[network],
        "arch_kwargs": {**architecture["arch_kwargs"], "salstm": config.to_json()},
    }
    rewritten = deepcopy(dict(plans))
    rewritten["configurations"][configuration]["architecture"] = extended
    if shrinks:
        batch_size, patch_size = resolved["batch_size"], resolved["patch_size"]
        stock = feature_map_size(without_salstm(architecture), patch_size)
        fits = batch_size * stock // feature_map_size(extended, patch_size)
        rewritten["configurations"][configuration]["batch_size"] = max(min(batch_size, SMALLEST_BATCH), fits)
    return rewritten


def feature_map_size(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> int:
    """Returns how many feature map values nnU-Net counts for a patch, its measure of memory.

    Args:
        architecture: of a configuration of nnU-Net plans.
        patch_size: in voxels.
    """
    return int(network_to_count(architecture, classes=2).compute_conv_feature_map_size(patch_size))


def network_to_count(architecture: Mapping[str, Any], classes: int) -> Any:
    """Returns a network whose feature map values can be counted; it takes no memory and has no numbers.

    Args:
        architecture: of a configuration of nnU-Net plans.
        classes: number of labels, the background too.
    """
    with torch.device("meta"):
        # Any input channels that every network takes: they do not count.
        return build_network(architecture, len(FRAMES), classes, initialise=False)


def build_network(
    architecture: Mapping[str, Any],
    input_channels: int,
    output_channels: int,
    initialise: bool = True,
    deep_supervision: bool = True,
) -> Any:
    """Returns the network of a configuration as nnU-Net builds it.

    Args:
        architecture: of a configuration of nnU-Net plans.
        input_channels: of the images.
        output_channels: of the segmentation.
        initialise: draw the weights as nnU-Net does, rather than as torch does.
        deep_supervision: return the outputs of all resolutions, as in training.
    """
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=input_channels,
        output_channels=output_channels,
        allow_init=initialise,
        deep_supervision=deep_supervision,
    )


def stock_class(architecture: Mapping[str, Any]) -> str:
    """Returns the name of the stock network's class, with or without blocks in it, e.g. PlainConvUNet."""
    return architecture["network_class_name"].rpartition(".")[2].removeprefix("SALSTM")


def channels_per_stage(arguments: Mapping[str, Any]) -> list[int]:
    """Returns the channels of each stage of the encoder, which nnU-Net's arguments may give as one number."""
    features = arguments["features_per_stage"]
    return [features] * arguments["n_stages"] if isinstance(features, int) else list(features)


def architecture_of(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Returns the architecture of a configuration, whatever it inherits and however old the plans are."""
    return resolve(plans, configuration)["architecture"]


def without_salstm(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the architecture of the stock network to which blocks were added."""
    arguments = {name: value for name, value in architecture["arch_kwargs"].items() if name != "salstm"}
    return {**architecture, "network_class_name": STOCK_NETWORKS[stock_class(architecture)], "arch_kwargs": arguments}


def salstm_plans_name(plans_name: str, module: str) -> str:
    """Returns the name of the plans `plans_name` with blocks of a module, e.g. nnUNetPlansSALSTM_A."""
    return f"{plans_name}SALSTM_{module}"


class NoNetwork(ValueError):
    """A configuration of plans that names no network, e.g. one that others only inherit from."""


def resolve(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Returns a copy of a configuration; nnU-Net resolves inheritance and converts old formats.

    Raises:
        NoNetwork: if it names no network.
        ValueError: if it inherits from itself or from one that is not there, or is otherwise damaged.
    """
    try:
        with warnings.catch_warnings():
            # Of the old format, which is said again at training; here it comes for each configuration.
            warnings.simplefilter("ignore", UserWarning)
            resolved = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    except KeyError as error:
        if error.args == ("UNet_class_name",):
            raise NoNetwork(f"configuration {configuration!r} names no network (architecture)") from None
        raise ValueError(f"configuration {configuration!r} lacks {error}") from None
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"configuration {configuration!r} cannot be read: {error}") from None
    architecture = resolved["architecture"]
    absent = [name for name in ("network_class_name", "arch_kwargs", "_kw_requires_import") if name not in architecture]
    if absent:
        raise ValueError(f"the architecture of configuration {configuration!r} lacks {', '.join(absent)}")
    return deepcopy(resolved)


def _per_stage(arguments: Mapping[str, Any], axes: int) -> dict[str, Any]:
    """Returns the arguments of a network with its strides as one list of numbers for each stage.

    Raises:
        ValueError: if a list has not as many values as the network has stages.
    """
    stages = arguments.get("n_stages")
    if not isinstance(stages, int) or stages < 1:
        raise ValueError(f"n_stages must be a whole number of at least 1, got {stages!r}")
    lists = dict.fromkeys(("features_per_stage", "kernel_sizes", "strides", *_PER_STAGE), stages)
    for name, count in {**lists, "n_conv_per_stage_decoder": stages - 1}.items():
        value = arguments.get(name)
        if isinstance(value, list | tuple) and len(value) != count:
            raise ValueError(f"{name} must have a value for each of {count} stages, got {len(value)}")
    missing = [name for name in ("features_per_stage", "strides") if name not in arguments]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    strides = arguments["strides"]
    of_stages = [strides] * stages if isinstance(strides, int) else strides
    strides = [[stride] * axes if isinstance(stride, int) else list(stride) for stride in of_stages]
    if any(len(stride) != axes for stride in strides):
        raise ValueError(f"strides must have a value for each of {axes} axes, got {arguments['strides']}")
    return {**arguments, "strides": strides}


def _require_channels(config: SALSTMConfig, channels: Sequence[int], stages: Sequence[int]) -> None:
    """Makes sure that a block's reduction divides the channels of every stage that has one.

    Raises:
        ValueError: naming a reduction that does.
    """
    try:
        for stage in stages:
            config.hidden_channels(channels[stage])
    except ValueError as error:
        common = math.gcd(*(channels[stage] for stage in stages))
        fits = max(divisor for divisor in range(1, config.reduction + 1) if common % divisor == 0)
        raise ValueError(f"{error}; {fits} divides all: set reduction to {fits}") from None
