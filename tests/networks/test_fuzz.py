"""Random configurations: legal ones build, run and survive copies, illegal ones are one ValueError with the name."""

import copy
import io
import pickle
from typing import NamedTuple

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from presets import name_of, plans_of, tiny
from torch import nn

from nnunetv2_salstm import SALSTMConfig
from nnunetv2_salstm.config import BOUNDARIES, MODULES, PLACEMENTS, SEQUENCES
from nnunetv2_salstm.networks import add_salstm, build_block
from nnunetv2_salstm.plans import add_to_plans, salstm_of

# Networks cost most of a second each; values cost nothing.
FEW = settings(max_examples=12, deadline=None)
MANY = settings(max_examples=100, deadline=None)
THOROUGH = settings(max_examples=200, deadline=None)


@st.composite
def configurations(draw, dims):
    sequence = draw(st.sampled_from(["auto", "repeat", "slices" if dims == 3 else "frames"]))
    placement = st.one_of(st.sampled_from(PLACEMENTS), st.sets(st.integers(0, 2), min_size=1).map(tuple))
    return SALSTMConfig(
        module=draw(st.sampled_from(MODULES)),
        placement=draw(placement),
        grid=draw(st.integers(0, 3)),
        reduction=draw(st.sampled_from([1, 2, 4])),
        max_hidden_channels=draw(st.integers(1, 20)),
        kernel_size=draw(st.sampled_from([1, 3, 5])),
        steps=2 if sequence == "frames" else draw(st.integers(2, 4)),
        sequence=sequence,
        attention_scale=draw(st.floats(1e-3, 1e4)),
        boundary=draw(st.sampled_from(BOUNDARIES)),
    )


class Case(NamedTuple):
    """A small network of three stages and an input that it takes."""

    config: SALSTMConfig
    strides: list[tuple[int, ...]]
    deep_supervision: bool
    shape: tuple[int, ...]
    seed: int


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 3]))
    config = draw(configurations(dims))
    strides = [(1,) * dims, *(tuple(draw(st.sampled_from([1, 2])) for _ in range(dims)) for _ in range(2))]
    # Twice what the strides ask for at least, so that the stock network has more than one voxel to normalise.
    size = [a * b * draw(st.integers(2, 3)) for a, b in zip(*strides[1:], strict=True)]
    shape = (draw(st.integers(1, 3)), config.frames, *size)
    return Case(config, strides, draw(st.booleans()), shape, draw(st.integers(0, 99)))


def build(case):
    """Returns the network, away from its start, and the input."""
    torch.manual_seed(case.seed)
    convolution, norm = {4: (nn.Conv2d, nn.InstanceNorm2d), 5: (nn.Conv3d, nn.InstanceNorm3d)}[len(case.shape)]
    network = PlainConvUNet(
        1, 3, (4, 8, 8), convolution, 3, case.strides, 1, 2, 1, norm_op=norm, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU, deep_supervision=case.deep_supervision,
    )  # fmt: skip
    add_salstm(network, case.config)
    for block in network.salstm.values():
        nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    return network, torch.randn(case.shape, requires_grad=True)


def check_network(case):
    network, x = build(case)
    output = network(x)
    outputs = output if isinstance(output, list) else [output]
    assert outputs[0].shape == (len(x), 2, *x.shape[2:])
    sum(o.square().mean() for o in outputs).backward()
    for name, parameter in network.named_parameters():
        if case.deep_supervision or not name.startswith("decoder.seg_layers"):  # the stock network's, unused
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(x.grad).all()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    restored = copy.deepcopy(network)
    for parameter in restored.parameters():
        nn.init.zeros_(parameter)
    restored.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        expected = network(x)
        for duplicate in (restored, pickle.loads(pickle.dumps(network))):
            again = duplicate(x)
            pairs = zip(again, expected, strict=True) if isinstance(again, list) else [(again, expected)]
            # Rounding may differ: memory is aligned otherwise.
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@FEW
@given(cases())
def test_legal_networks_build_run_differentiate_and_survive_copies(case):
    check_network(case)


@pytest.mark.nightly
@THOROUGH
@given(cases())
def test_two_hundred_legal_networks(case):
    check_network(case)


class Encoder:
    """What a block needs to know of an encoder."""

    conv_op, output_channels, norm_op_kwargs = None, [8], {"affine": True}

    def __init__(self, norm_op):
        self.norm_op = norm_op


@MANY
@given(st.data())
def test_blocks_take_every_size(data):
    dims = data.draw(st.sampled_from([2, 3]))
    config = data.draw(configurations(dims)).resolve(dims, 3)
    cell = tuple(data.draw(st.integers(1, 4)) for _ in range(dims))
    norm = data.draw(st.sampled_from([None, nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d]))
    block = build_block(config, Encoder(norm), 0, cell)
    nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    size = [data.draw(st.integers(1, 7)) for _ in range(dims)]
    batch = data.draw(st.integers(1, 3))
    x = torch.randn(config.frames * batch, 8, *size, requires_grad=True)
    output = block(x)
    assert output.shape == (batch, 8, *size)
    output.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


ILLEGAL = {
    "module": st.text().filter(lambda value: value not in MODULES),
    "placement": st.one_of(
        st.text().filter(lambda value: value not in PLACEMENTS),
        st.just(()),
        st.lists(st.integers(max_value=-1), min_size=1).map(tuple),
        st.none(),
        st.floats(),
    ),
    "grid": st.one_of(st.integers(max_value=-1), st.floats(), st.booleans(), st.text(), st.none()),
    "reduction": st.one_of(st.integers(max_value=0), st.floats(), st.booleans(), st.text(), st.none()),
    "max_hidden_channels": st.one_of(st.integers(max_value=0), st.floats(), st.booleans(), st.none()),
    "kernel_size": st.one_of(st.integers(max_value=0), st.integers(1, 50).map(lambda n: 2 * n), st.floats(), st.none()),
    "steps": st.one_of(st.integers(max_value=1), st.floats(), st.booleans(), st.none()),
    "sequence": st.text().filter(lambda value: value not in SEQUENCES),
    "attention_scale": st.one_of(st.floats(max_value=0), st.just(float("inf")), st.just(float("nan")), st.text()),
    "boundary": st.text().filter(lambda value: value not in BOUNDARIES),
}


@MANY
@given(st.sampled_from(list(ILLEGAL)).flatmap(lambda name: st.tuples(st.just(name), ILLEGAL[name])))
def test_illegal_values_are_an_error_with_their_name(name_and_value):
    name, value = name_and_value
    with pytest.raises(ValueError, match=f"^{name} must be"):
        SALSTMConfig(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be"):
        SALSTMConfig.from_json({name: value})


@MANY
@given(st.integers(2, 3).flatmap(configurations))
def test_legal_values_survive_json(config):
    assert SALSTMConfig.from_json(config.to_json()) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
# Random names are nearly never ours: half of the entries have names that are.
ENTRIES = JSON | st.dictionaries(st.sampled_from([*ILLEGAL, "format"]), JSON | st.sampled_from(["A", "all", 1, 2, 3]))


def check_entry(entry, dims):
    plan = tiny(dims)
    plan["architecture"]["arch_kwargs"]["salstm"] = entry
    try:
        plans = add_to_plans(plans_of(plan), name_of(plan), {})
    except ValueError:
        return
    resolved = salstm_of(plans, name_of(plan))
    assert SALSTMConfig.from_json(resolved).to_json() == resolved


@MANY
@given(ENTRIES, st.sampled_from([2, 3]))
def test_random_json_in_the_plans_is_a_configuration_or_a_value_error(entry, dims):
    check_entry(entry, dims)


@MANY
@given(ENTRIES)
def test_random_json_never_gives_anything_but_a_network_or_a_value_error(entry):
    network = PlainConvUNet(1, 2, (4, 8), nn.Conv2d, 3, [(1, 1), (2, 2)], 1, 2, 1, nonlin=nn.ReLU)
    try:
        add_salstm(network, entry)
    except ValueError:
        assert not hasattr(network, "salstm")
        return
    assert network(torch.zeros(1, network.salstm.frames, 4, 4)).shape == (1, 2, 4, 4)
