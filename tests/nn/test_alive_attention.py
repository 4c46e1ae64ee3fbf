"""The attention must neither mix all channels into one nor be without influence, on every grid nnU-Net plans."""

import math

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from presets import PRESETS, name_of, plans_of

from nnunetv2_salstm.networks import SALSTMPlainConvUNet
from nnunetv2_salstm.nn import SALSTM, SALSTMBlock, SliceSALSTM, StateAttention
from nnunetv2_salstm.plans import add_to_plans


def grids(plan):
    """Returns the size of every stage in voxels."""
    sizes, size = [], plan["patch_size"]
    for stride in plan["architecture"]["arch_kwargs"]["strides"]:
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        sizes.append(size)
    return sizes


def blocks_of(plan, module):
    """Returns the blocks as nnU-Net starts them, without the cost of the stock network around them."""
    architecture = add_to_plans(plans_of(plan), name_of(plan), {"module": module})["configurations"][name_of(plan)][
        "architecture"
    ]
    arguments = {**architecture["arch_kwargs"], "n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}
    return get_network_from_plans(
        architecture["network_class_name"], arguments, architecture["_kw_requires_import"], 1, 2
    ).salstm


def distinctness(attention, state):
    """Returns the standard deviation over channels of Y relative to that of V."""
    y, v = attention(state), state.h
    return (y.std(dim=1).square().mean().sqrt() / v.std(dim=1).square().mean().sqrt()).item()


def attention_inputs(layer, x):
    """Returns both directions' attention with the states it gets for x."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        for net in (layer.layer.forward_net, layer.layer.reverse_net):
            module = net.attention
            factors = module.factors

            def spy(state, module=module, factors=factors):
                seen.append((module, state))
                return factors(state)

            patch.setattr(module, "factors", spy)
        layer(x)
    return seen


@torch.no_grad()
@pytest.mark.parametrize("module", ["A", "B"])
@pytest.mark.parametrize("preset", PRESETS)
def test_channels_stay_distinct_at_the_start(preset, module):
    torch.manual_seed(0)
    blocks = blocks_of(PRESETS[preset], module)
    sizes = grids(PRESETS[preset])
    assert len(blocks) == len(sizes)
    for stage, block in blocks.items():
        grid = [math.ceil(s / cell) for s, cell in zip(sizes[int(stage)], block.stride, strict=True)]
        seen = attention_inputs(block.layer, torch.randn(1, block.layer.in_channels, *grid))
        assert len(seen) == 2
        for attention, state in seen:
            ratio = distinctness(attention, state)
            assert ratio >= 0.3, f"stage {stage}, grid {grid}: {ratio:.3f}"


@torch.no_grad()
def test_the_measure_sees_the_dead_attention():
    # The authors' scale with a = N on the bottleneck of the Hippocampus plan: all channels become equal.
    torch.manual_seed(0)
    layer = SliceSALSTM(SALSTM(32, 32, 8, 3))
    for attention, state in attention_inputs(layer, torch.randn(1, 32, 5, 7, 5)):
        assert distinctness(attention, state) < 0.1


def trained_block(module="A"):
    """A block away from its start: its last convolution is not zero."""
    torch.manual_seed(1)
    attention = StateAttention if module == "A" else module
    layer = SliceSALSTM(SALSTM(8, 8, 16, 3, module=lambda hidden: attention(hidden, tau=570)))
    block = SALSTMBlock(16, layer, (1, 2, 2), torch.nn.InstanceNorm3d(8, affine=True))
    torch.nn.init.normal_(layer.layer.conv.weight)
    return block.eval()


def test_information_passes_between_neighbouring_slices():
    # Without the normalisation, whose statistics span the volume, only the neighbours may be seen.
    block = trained_block()
    block.norm = None
    x = torch.randn(1, 16, 7, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[:, :, 3].sum(), x)
    influence = gradient.abs().amax(dim=(0, 1, 3, 4))
    assert (influence[2:5] > 1e-6).all(), influence
    assert (influence[[0, 1, 5, 6]] == 0).all(), influence
    assert not torch.allclose(gradient[:, :, 3], torch.ones(()))


class Identity(StateAttention):
    def matrix(self, query, key):
        return torch.eye(query.shape[-2], dtype=query.dtype).expand(*query.shape[:-1], -1)


class Uniform(StateAttention):
    def matrix(self, query, key):
        channels = query.shape[-2]
        return torch.full((*query.shape[:-1], channels), 1 / channels, dtype=query.dtype)


@torch.no_grad()
@pytest.mark.parametrize("replacement", [Identity, Uniform])
def test_the_output_depends_on_the_attention(replacement):
    x = torch.randn(1, 16, 5, 12, 10)
    block, replaced = trained_block(), trained_block(replacement)
    replaced.load_state_dict(block.state_dict())
    contribution = block.contribution(x)
    difference = (contribution - replaced.contribution(x)).abs().max() / contribution.abs().max()
    assert difference > 0.05


def test_networks_use_the_scale_of_the_configuration():
    plan = PRESETS["hippocampus3d"]
    arguments = {**plan["architecture"]["arch_kwargs"], "salstm": {"attention_scale": 33}}
    network = get_network_from_plans(
        f"{SALSTMPlainConvUNet.__module__}.{SALSTMPlainConvUNet.__name__}",
        arguments,
        plan["architecture"]["_kw_requires_import"],
        1,
        2,
    )
    scales = {block.layer.layer.forward_net.attention.tau for block in network.salstm.values()}
    assert scales == {33}
