"""Checkpoints of stock networks with SA-LSTM blocks added."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.seeds import seed_everything
from nnunetv2_salstm.host.trainer_names import TrainerName
from nnunetv2_salstm.plans import add_to_plans, architecture_of, build_network, salstm_of, salstm_plans_name


@dataclass(frozen=True)
class Graft:
    """What is added to a stock checkpoint.

    Attributes:
        trainer: name of the trainer the result belongs to.
        values: of `SALSTMConfig`; what they leave out comes from the trainer's name and then from the defaults.
    """

    trainer: str
    values: Mapping[str, Any]

    def plans(self, plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
        """Returns the plans of the result.

        They keep their name where the trainer's name alone says what the blocks are, as its own training does. Else
        they take the name of those that `nnUNetv2_salstm plan` writes.

        Raises:
            SalstmError: if values and name contradict each other, or do not fit the network.
        """
        demanded = self._demanded_by_the_trainer()
        if self.values.get("initial_gain", 0) != 0:
            gain = self.values["initial_gain"]
            raise SalstmError(
                f"--config says initial_gain {gain!r}, but grafted blocks start as the identity; leave it out"
            )
        for name, value in (demanded or {}).items():
            if self.values.get(name, value) != value:
                raise SalstmError(
                    f"--config says {name} {self.values[name]!r} but -tr {self.trainer} demands {value!r}; "
                    "change one of them"
                )
        try:
            ours = add_to_plans(plans, configuration, {**(demanded or {}), **self.values, "initial_gain": 0.0})
        except ValueError as error:
            raise SalstmError(str(error)) from None
        blocks = salstm_of(ours, configuration) or {}
        if blocks["sequence"] == "frames":
            raise SalstmError(
                "2.5D cannot be grafted: its encoder sees one frame at a time, a stock network's all channels at once; "
                "train it from the start, or graft a trainer without _25d"
            )
        if self.values or demanded is None:
            ours["plans_name"] = salstm_plans_name(ours["plans_name"], blocks["module"])
        return ours

    def seed(self) -> int | None:
        """Returns the seed in the trainer's name, None if it has none."""
        return None if self._demanded_by_the_trainer() is None else TrainerName.parse(self.trainer).seed

    def _demanded_by_the_trainer(self) -> dict[str, str] | None:
        """Returns what the name of a trainer of ours demands, None for one of nnU-Net's."""
        try:
            demanded = TrainerName.parse(self.trainer).salstm
        except ValueError:
            return None
        if demanded is None:
            raise SalstmError(f"-tr {self.trainer} trains the stock network; name one that trains SA-LSTM blocks")
        return demanded


def add_blocks(checkpoint: Mapping[str, Any], graft: Graft) -> dict[str, Any]:
    """Returns a checkpoint with blocks that start as the identity: its network computes what the stock network did.

    Trainer, plans and optimiser go with the network: the momentum of the stock parameters stays, that of the new ones
    is empty. Epoch, learning curves and loss scale stay.

    Args:
        checkpoint: of nnU-Net, not changed.
        graft: what to add.

    Raises:
        SalstmError: if it is not a checkpoint of the stock network of its plans, or the blocks do not fit it.
    """
    arguments = checkpoint["init_args"]
    plans, configuration, dataset_json = (arguments[name] for name in ("plans", "configuration", "dataset_json"))
    if salstm_of(plans, configuration) is not None:
        raise SalstmError(
            f"the checkpoint of {checkpoint['trainer_name']} has SA-LSTM blocks already; give one of a stock network"
        )
    manager = PlansManager(plans)
    channels = (
        determine_num_input_channels(manager, manager.get_configuration(configuration), dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads,
    )
    with torch.device("meta"):
        stock = build_network(architecture_of(plans, configuration), *channels, initialise=False)
    weights = checkpoint["network_weights"]
    _require_same(stock.state_dict(), weights, checkpoint["trainer_name"])
    extended_plans = graft.plans(plans, configuration)
    seed = graft.seed()
    if seed is not None:
        seed_everything(seed)
    try:
        network = build_network(architecture_of(extended_plans, configuration), *channels)
    except ValueError as error:
        raise SalstmError(str(error)) from None
    return {
        **checkpoint,
        "network_weights": {**network.state_dict(), **weights},
        "optimizer_state": _extend_optimizer(
            checkpoint.get("optimizer_state") or {},
            [name for name, _ in stock.named_parameters()],
            [name for name, _ in network.named_parameters()],
        ),
        "init_args": {**arguments, "plans": extended_plans},
        "trainer_name": graft.trainer,
    }


def _extend_optimizer(state: Mapping[str, Any], stock: list[str], extended: list[str]) -> dict[str, Any]:
    """Returns the state of an optimiser of the extended network, whose parameters are numbered in their order."""
    groups = state.get("param_groups", [])
    if len(groups) != 1 or "momentum" not in groups[0] or len(groups[0]["params"]) != len(stock):
        # None, or another optimiser's, which means nothing to nnU-Net's SGD: its settings; the rate is set each epoch.
        optimizer = torch.optim.SGD(
            [torch.zeros(1) for _ in extended], 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
        )
        return optimizer.state_dict()
    (group,) = groups
    moved = {number: extended.index(name) for number, name in zip(group["params"], stock, strict=True)}
    return {
        "state": {moved[number]: values for number, values in state["state"].items()},
        "param_groups": [{**group, "params": list(range(len(extended)))}],
    }


def _require_same(network: Mapping[str, Tensor], weights: Mapping[str, Tensor], trainer: str) -> None:
    """Makes sure that a checkpoint has the keys and shapes of a network."""
    absent = "not there"
    for key in {**network, **weights}:
        expected, found = (tuple(state[key].shape) if key in state else absent for state in (network, weights))
        if expected != found:
            raise SalstmError(
                f"the checkpoint of {trainer} is of another network than the stock one of its plans; the first "
                f"difference is {key}: {found} in the checkpoint, {expected} in the stock network"
            )
