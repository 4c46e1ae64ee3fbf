"""Rewriting plans: the network is named and configured in full, and every contradiction is one clear error."""

import copy
import json

import pytest
from presets import PRESETS, as_residual_encoder, name_of, plans_of, tiny

from nnunetv2_salstm import SALSTMConfig
from nnunetv2_salstm.plans import add_to_plans, feature_map_size, salstm_of


def plans_with(salstm, plan=None):
    plans = copy.deepcopy(plans_of(plan or tiny()))
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["salstm"] = salstm
    return plans


@pytest.mark.parametrize(
    ("plan", "network"),
    [
        (PRESETS["acdc3d"], "SALSTMPlainConvUNet"),
        (PRESETS["isic2d"], "SALSTMPlainConvUNet"),
        (as_residual_encoder(PRESETS["acdc3d"]), "SALSTMResidualEncoderUNet"),
    ],
)
def test_names_our_network_and_changes_nothing_else(plan, network):
    plans = plans_of(plan)
    before = copy.deepcopy(plans)
    rewritten = add_to_plans(plans, name_of(plan), {"module": "B"})
    assert plans == before
    architecture = rewritten["configurations"][name_of(plan)]["architecture"]
    assert architecture["network_class_name"] == f"nnunetv2_salstm.networks.{network}"
    salstm = architecture["arch_kwargs"].pop("salstm")
    resolved = SALSTMConfig(module="B", sequence="slices" if len(plan["patch_size"]) == 3 else "repeat")
    assert salstm == {"format": 2, **json.loads(json.dumps(resolved.to_json()))}
    architecture["network_class_name"] = plan["architecture"]["network_class_name"]
    assert rewritten == before


def test_the_users_values_win_over_the_defaults():
    rewritten = add_to_plans(plans_with({"reduction": 2, "steps": 3}), "3d_fullres", {"module": "A"})
    salstm = salstm_of(rewritten, "3d_fullres")
    assert (salstm["module"], salstm["reduction"], salstm["steps"], salstm["grid"]) == ("A", 2, 3, SALSTMConfig().grid)


def test_rewriting_twice_changes_nothing():
    once = add_to_plans(plans_of(tiny()), "3d_fullres", {"module": "A", "placement": "skips"})
    assert add_to_plans(once, "3d_fullres", {"module": "A"}) == once
    assert add_to_plans(once, "3d_fullres", {}) == once


def test_only_the_named_configuration_is_rewritten():
    plans = plans_of(tiny())
    plans["configurations"]["2d"] = tiny(2)
    rewritten = add_to_plans(plans, "2d", {"module": "A"})
    assert salstm_of(rewritten, "3d_fullres") is None
    assert salstm_of(rewritten, "2d")["sequence"] == "repeat"


def test_an_inherited_architecture_is_rewritten_for_the_heir_alone():
    plans = plans_of(tiny())
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    rewritten = add_to_plans(plans, "3d_cascade_fullres", {"module": "A"})
    assert salstm_of(rewritten, "3d_cascade_fullres")["module"] == "A"
    assert salstm_of(rewritten, "3d_fullres") is None
    assert rewritten["configurations"]["3d_cascade_fullres"]["inherits_from"] == "3d_fullres"


def test_plans_of_older_nnunet_versions():
    plan = {
        "patch_size": [8, 24, 16],
        "UNet_class_name": "ResidualEncoderUNet",
        "UNet_base_num_features": 8,
        "unet_max_num_features": 32,
        "n_conv_per_stage_encoder": [1, 2, 2],
        "n_conv_per_stage_decoder": [1, 1],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    }
    rewritten = add_to_plans(plans_of(plan), "3d_fullres", {"module": "A"})
    architecture = rewritten["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_salstm.networks.SALSTMResidualEncoderUNet"
    assert salstm_of(rewritten, "3d_fullres")["module"] == "A"


@pytest.mark.parametrize(
    ("salstm", "demanded", "message"),
    [
        ({"module": "B"}, {"module": "A"}, "module is 'B' in the plans but the trainer demands 'A'"),
        (
            {"placement": "bottleneck"},
            {"module": "A", "placement": "skips"},
            "placement is 'bottleneck' in the plans but the trainer demands 'skips'",
        ),
        ({"kernel": 3}, {"module": "A"}, "salstm takes module, .* got 'kernel'"),
        ({"kernel_size": 2}, {"module": "A"}, "kernel_size must be odd, .* got 2"),
        ({"steps": 1}, {"module": "A"}, "steps must be a whole number of at least 2, got 1"),
        ({"placement": [3]}, {"module": "A"}, r"placement must name stages 0 to 2 of this network, got \[3\]"),
        ({"reduction": 3}, {"module": "A"}, "reduction must divide the 8 channels of every stage it acts on, got 3"),
        ({"format": 99}, {"module": "A"}, "it was written by a newer version"),
        (["A"], {"module": "A"}, r"salstm must be a mapping such as .* got \['A'\]"),
        ({}, {"module": "C"}, "module must be one of A, B, bdclstm, conv, got 'C'"),
    ],
    ids=str,
)
def test_refuses_contradictions_and_wrong_values(salstm, demanded, message):
    with pytest.raises(ValueError, match=message) as error:
        add_to_plans(plans_with(salstm), "3d_fullres", demanded)
    assert "plans 'nnUNetPlans', configuration '3d_fullres', arch_kwargs[\"salstm\"]: " in str(error.value)


@pytest.mark.parametrize("network", ["plain", "residual"])
def test_frames_shrink_the_batch_to_the_planned_memory(network):
    plan = PRESETS["acdc2d"] if network == "plain" else as_residual_encoder(PRESETS["acdc2d"])
    plans = copy.deepcopy(plans_of(plan))
    rewritten = add_to_plans(plans, "2d", {"module": "A", "sequence": "frames"})
    configuration = rewritten["configurations"]["2d"]
    before, now = (
        c["batch_size"] * feature_map_size(c["architecture"], c["patch_size"]) for c in (plan, configuration)
    )
    one_more = now / configuration["batch_size"]
    assert now <= before < now + one_more
    assert plan["batch_size"] / 3.2 < configuration["batch_size"] <= plan["batch_size"] / 2
    assert add_to_plans(rewritten, "2d", {"module": "A", "sequence": "frames"}) == rewritten
    # What asks for frames itself was planned for them.
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["salstm"] = {"sequence": "frames"}
    kept = add_to_plans(plans, "2d", {"module": "A", "sequence": "frames"})
    assert kept["configurations"]["2d"]["batch_size"] == plan["batch_size"]


def test_frames_shrink_the_batch_alike_where_the_plans_have_values_of_their_own():
    plans, own = plans_of(PRESETS["acdc2d"]), copy.deepcopy(plans_of(PRESETS["acdc2d"]))
    own["configurations"]["2d"]["architecture"]["arch_kwargs"]["salstm"] = {"module": "A"}
    sizes = {
        add_to_plans(given, "2d", {"module": "A", "sequence": "frames"})["configurations"]["2d"]["batch_size"]
        for given in (plans, own)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize(("planned", "expected"), [(1, 1), (2, 2), (3, 2)])
def test_the_batch_does_not_shrink_below_nnunets_least(planned, expected):
    plan = {**tiny(2), "batch_size": planned}
    rewritten = add_to_plans(plans_of(plan), "2d", {"sequence": "frames"})
    assert rewritten["configurations"]["2d"]["batch_size"] == expected


def test_refuses_frames_in_3d():
    with pytest.raises(ValueError, match="sequence 'frames' needs a 2D configuration"):
        add_to_plans(plans_of(tiny()), "3d_fullres", {"sequence": "frames"})


def test_refuses_slices_in_2d():
    plan = tiny(2)
    plan["architecture"]["arch_kwargs"]["salstm"] = {"sequence": "slices"}
    with pytest.raises(ValueError, match="sequence 'slices' needs a 3D configuration, got 2 spatial axes"):
        add_to_plans(plans_of(plan), "2d", {"module": "A"})


def test_refuses_networks_it_cannot_extend():
    plan = copy.deepcopy(tiny())
    plan["architecture"]["network_class_name"] = "dynamic_network_architectures.architectures.primus.Primus"
    with pytest.raises(ValueError, match=r"must be one of PlainConvUNet, ResidualEncoderUNet, got dynamic.*Primus"):
        add_to_plans(plans_of(plan), "3d_fullres", {"module": "A"})


def test_refuses_a_class_of_somebody_else_with_the_same_name():
    plan = copy.deepcopy(tiny())
    plan["architecture"]["network_class_name"] = "mypackage.networks.PlainConvUNet"
    with pytest.raises(ValueError, match=r"must be one of PlainConvUNet, .*, got mypackage\.networks\.PlainConvUNet"):
        add_to_plans(plans_of(plan), "3d_fullres", {"module": "A"})


@pytest.mark.parametrize(("name", "value"), [("strides", 1.5), ("strides", [1.5, 2]), ("features_per_stage", None)])
def test_values_of_another_type_are_named(name, value):
    plan = copy.deepcopy(tiny())
    plan["architecture"]["arch_kwargs"][name] = value
    with pytest.raises(ValueError, match="arch_kwargs"):
        add_to_plans(plans_of(plan), "3d_fullres", {"module": "A"})
