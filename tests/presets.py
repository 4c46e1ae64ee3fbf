"""Configurations to build networks from: the shipped presets, the small 2D one, and tiny ones."""

from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import manual_seed, nn

from nnunetv2_salstm.host import presets as shipped
from nnunetv2_salstm.host.presets import as_residual_encoder, name_of, plan_configuration, plans_of
from nnunetv2_salstm.plans import add_to_plans

__all__ = ["PRESETS", "as_residual_encoder", "build", "name_of", "plans_of", "tiny"]

PRESETS = {
    **{name: plan for name, plan in shipped.PRESETS.items() if not name.endswith("resenc")},
    "hippocampus2d": plan_configuration([56, 40], [[2, 2]] * 3, 366, [1.0, 1.0]),
}


def tiny(dims: int = 3, patch: list[int] | None = None, strides: list[list[int]] | None = None) -> dict[str, Any]:
    """Returns a configuration of few channels, for networks that are built and run in a test."""
    patch = patch or [8, 24, 16][-dims:]
    strides = strides or [[1, 2, 2][-dims:], [2, 2, 2][-dims:]]
    plan = plan_configuration(patch, strides, batch_size=2, spacing=[3.0, 1.0, 1.0][-dims:])
    plan["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 32, 32, 32][: len(strides) + 1]
    return plan


def build(
    plan: dict[str, Any],
    salstm: dict[str, Any] | None = None,
    seed: int = 0,
    deep_supervision: bool = True,
    input_channels: int = 2,
) -> nn.Module:
    """Returns the network as nnU-Net builds it from plans; with `salstm` values, ours."""
    if salstm is not None:
        plan = add_to_plans(plans_of(plan), name_of(plan), salstm)["configurations"][name_of(plan)]
    architecture = plan["architecture"]
    manual_seed(seed)
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=input_channels,
        output_channels=3,
        deep_supervision=deep_supervision,
    )
