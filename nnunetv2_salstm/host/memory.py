"""What networks take: their parameters, and memory for training as nnU-Net estimates it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.trainer_names import METHODS
from nnunetv2_salstm.plans import (
    add_to_plans,
    architecture_of,
    build_network,
    network_to_count,
    salstm_of,
    stock_class,
)

# nnU-Net's planners know one network, patch and batch for their target of 8 GB, by the number of its feature map values
# (ExperimentPlanner and nnUNetPlannerResEncM of nnU-Net 2.8); others in proportion.
REFERENCE_GB = 8.0
REFERENCE_VALUES = {
    ("PlainConvUNet", 2): 85_000_000 * 12,
    ("PlainConvUNet", 3): 560_000_000 * 2,
    ("ResidualEncoderUNet", 2): 135_000_000 * 12,
    ("ResidualEncoderUNet", 3): 680_000_000 * 2,
}


class MemoryEstimate:
    """nnU-Net's estimate for a network, from the values of the feature maps that its convolutions return.

    Args:
        architecture: of a configuration of nnU-Net plans.
        classes: number of labels, the background too.
    """

    def __init__(self, architecture: Mapping[str, Any], classes: int):
        self._class = stock_class(architecture)
        self._network = network_to_count(architecture, classes)

    def gigabytes(self, patch_size: Sequence[int], batch_size: int) -> float:
        """Returns the estimate for a batch of patches, sizes in voxels."""
        values = batch_size * int(self._network.compute_conv_feature_map_size(patch_size))
        return REFERENCE_GB * values / REFERENCE_VALUES[self._class, len(patch_size)]


def trainer_sizes(plan: BenchPlan) -> dict[str, tuple[int, float]]:
    """Returns parameters and GB for every trainer's network in a configuration of stock plans; nothing is allocated.

    Raises:
        SalstmError: if the plans have blocks already, or their network cannot be extended.
    """
    if salstm_of(plan.plans, plan.configuration) is not None:
        raise SalstmError(
            f"-p must name stock plans to compare trainers on; those of {plan.name} have SA-LSTM blocks already"
        )
    manager = PlansManager(plan.plans)
    configuration = manager.get_configuration(plan.configuration)
    channels = determine_num_input_channels(manager, configuration, plan.dataset_json)
    classes = manager.get_label_manager(plan.dataset_json).num_segmentation_heads
    sizes = {}
    for trainer, demanded in METHODS.items():
        try:
            plans = plan.plans if demanded is None else add_to_plans(plan.plans, plan.configuration, demanded)
        except ValueError as error:
            raise SalstmError(str(error)) from None
        architecture = architecture_of(plans, plan.configuration)
        with torch.device("meta"):
            network = build_network(architecture, channels, classes, initialise=False)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        gigabytes = MemoryEstimate(architecture, classes).gigabytes(configuration.patch_size, configuration.batch_size)
        sizes[trainer] = parameters, gigabytes
    return sizes
