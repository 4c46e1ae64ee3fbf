"""What the networks of the trainers take on a data set's plans."""

from dataclasses import dataclass

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.memory import MemoryEstimate
from nnunetv2_salstm.host.trainer_names import METHODS
from nnunetv2_salstm.plans import add_to_plans, architecture_of, build_network, salstm_of


@dataclass(frozen=True)
class TrainerSize:
    """The network of one trainer.

    Attributes:
        trainer: name without suffixes.
        parameters: number of its weights.
        gigabytes: for training, as nnU-Net estimates it.
    """

    trainer: str
    parameters: int
    gigabytes: float


def trainer_sizes(plan: BenchPlan) -> list[TrainerSize]:
    """Returns the size of every trainer's network in a configuration of stock plans; nothing is allocated.

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
    sizes = []
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
        sizes.append(TrainerSize(trainer, parameters, gigabytes))
    return sizes
