"""The networks: the stock ones until the blocks are trained, in everything but the blocks."""

import copy
import math
import pickle

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualUNet
from presets import PRESETS, as_residual_encoder, build, tiny
from torch import nn

from nnunetv2_salstm import SALSTMConfig
from nnunetv2_salstm.networks import SALSTMPlainConvUNet, SALSTMResidualEncoderUNet, add_salstm, cell_size
from nnunetv2_salstm.nn import reset_blocks

PLANS = {
    "anisotropic": tiny(),
    "one slice": tiny(patch=[1, 24, 16], strides=[[1, 2, 2], [1, 2, 2]]),
    "2D": tiny(2),
    "odd features": tiny(patch=[5, 24, 40], strides=[[1, 2, 2], [1, 2, 2], [1, 2, 2]]),
}
NETWORKS = [(name, kind) for name in PLANS for kind in ("plain", "residual")]


def plan_of(name, kind):
    if kind == "plain":
        return PLANS[name]
    plan = as_residual_encoder(PLANS[name])
    plan["architecture"]["arch_kwargs"]["n_blocks_per_stage"] = 1  # the preset's 14 blocks only take time here
    return plan


def train_last_convolutions(network):
    """Moves the blocks away from their start."""
    for block in network.salstm.values():
        nn.init.normal_(block.layer.output_convolution.weight)


@pytest.mark.parametrize("module", ["A", "B", "bdclstm", "conv"])
@pytest.mark.parametrize(("name", "kind"), NETWORKS)
def test_equals_the_stock_network_at_the_start(name, kind, module):
    plan = plan_of(name, kind)
    stock, ours = build(plan), build(plan, {"module": module})
    expected = {"plain": SALSTMPlainConvUNet, "residual": SALSTMResidualEncoderUNet}[kind]
    assert type(ours) is expected
    state = ours.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key
    added = set(state) - set(stock.state_dict())
    assert added
    assert all(key.split(".")[0] == "salstm" and key.split(".")[1].isdigit() for key in added)
    x = torch.randn(2, 2, *plan["patch_size"])
    for mode in (True, False):
        stock.train(mode)
        ours.train(mode)
        for output, reference in zip(ours(x), stock(x), strict=True):
            assert torch.equal(output, reference)
    train_last_convolutions(ours)
    assert not torch.equal(ours(x)[0], stock(x)[0])


@pytest.mark.parametrize("module", ["A", "B", "bdclstm", "conv"])
def test_a_start_above_zero_stays_within_the_scale_of_the_stock_network(module):
    plan = PLANS["anisotropic"]
    stock, ours = build(plan), build(plan, {"module": module, "initial_gain": 1.0})
    state = ours.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key
    x = torch.randn(2, 2, *plan["patch_size"])
    for output, reference in zip(ours(x), stock(x), strict=True):
        assert not torch.equal(output, reference)
        assert 0.5 < output.std() / reference.std() < 2


@pytest.mark.parametrize(("values", "form"), [({}, "authors"), ({"attention": "correlation"}, "correlation")])
@pytest.mark.parametrize("module", ["A", "B"])
def test_networks_use_the_attention_of_the_configuration(module, values, form):
    network = build(PLANS["anisotropic"], {"module": module, "initial_gain": 1.0, **values})
    for block in network.salstm.values():
        for net in (block.layer.layer.forward_net, block.layer.layer.reverse_net):
            assert net.attention.form == form
    outputs = network(torch.randn(2, 2, *PLANS["anisotropic"]["patch_size"]))
    sum(output.square().mean() for output in outputs).backward()
    temperatures = [p for name, p in network.named_parameters() if name.endswith("temperature")]
    assert len(temperatures) == (2 * len(network.salstm) if form == "correlation" else 0)
    assert all(p.grad.abs() > 0 for p in temperatures)


def test_leaves_the_random_generator_as_the_stock_network_does():
    drawn = []
    for network, arguments in ((PlainConvUNet, {}), (SALSTMPlainConvUNet, {"salstm": {"module": "B"}})):
        torch.manual_seed(0)
        network(1, 2, (4, 8), nn.Conv2d, 3, (1, 2), 1, 2, 1, norm_op=nn.InstanceNorm2d, nonlin=nn.ReLU, **arguments)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("module", ["A", "B", "bdclstm", "conv"])
@pytest.mark.parametrize(("name", "kind"), NETWORKS)
def test_every_parameter_has_a_gradient(name, kind, module):
    network = build(plan_of(name, kind), {"module": module})
    outputs = network(torch.randn(2, 2, *PLANS[name]["patch_size"]))
    sum(output.square().mean() for output in outputs).backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing
    for block in network.salstm.values():
        assert block.layer.output_convolution.weight.grad.abs().max() > 0


@pytest.mark.parametrize("module", ["A", "B"])
def test_trains_every_parameter_once_away_from_the_start(module):
    network = build(PLANS["anisotropic"], {"module": module})
    train_last_convolutions(network)
    outputs = network(torch.randn(2, 2, *PLANS["anisotropic"]["patch_size"]))
    sum(output.square().mean() for output in outputs).backward()
    # A bias before an instance normalisation has no influence.
    without = [
        name
        for name, p in network.salstm.named_parameters()
        if p.grad.abs().max() == 0 and not name.endswith("reduce.bias")
    ]
    assert not without


@pytest.mark.parametrize("placement", ["all", "bottleneck"])
@pytest.mark.parametrize("module", ["A", "B", "bdclstm", "conv"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_frames_start_as_the_stock_network_on_the_current_one(kind, module, placement):
    plan = plan_of("2D", kind)
    stock = build(plan)
    ours = build(plan, {"module": module, "sequence": "frames", "placement": placement}, input_channels=6)
    state = ours.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key
    assert {key.split(".")[0] for key in set(state) - set(stock.state_dict())} == {"salstm"}
    frames = torch.randn(2, 3, 2, *plan["patch_size"], requires_grad=True)
    for mode in (True, False):
        stock.train(mode)
        ours.train(mode)
        for output, reference in zip(ours(frames.flatten(1, 2)), stock(frames[:, 0]), strict=True):
            assert output.shape == reference.shape
            assert torch.allclose(output, reference, atol=1e-5)
    train_last_convolutions(ours)
    outputs = ours(frames.flatten(1, 2))
    assert not torch.allclose(outputs[0], stock(frames[:, 0])[0], atol=1e-3)
    sum(output.square().mean() for output in outputs).backward()
    assert [key for key, parameter in ours.named_parameters() if parameter.grad is None] == []
    assert frames.grad.abs().flatten(2).amax(2).min() > 0  # every frame of every sample
    with torch.inference_mode():
        assert torch.allclose(ours(frames.flatten(1, 2))[0], outputs[0], atol=1e-5)


def test_the_state_with_frames_is_that_without():
    plan = PLANS["2D"]
    frames, alone = build(plan, {"sequence": "frames"}, input_channels=6), build(plan, {})
    assert {k: v.shape for k, v in frames.state_dict().items()} == {k: v.shape for k, v in alone.state_dict().items()}


def test_frames_refuse_other_channels():
    plan = PLANS["2D"]
    with pytest.raises(ValueError, match=r"input_channels must be a multiple of 3 \(current, previous, next\)"):
        build(plan, {"sequence": "frames"}, input_channels=4)
    with pytest.raises(ValueError, match=r"x must hold current, previous, next in its channels, a multiple of 3"):
        build(plan, {"sequence": "frames"}, input_channels=6)(torch.zeros(2, 4, *plan["patch_size"]))


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_feature_map_size_counts_the_encoder_three_times_with_frames(kind):
    plan = plan_of("2D", kind)
    size = plan["patch_size"]
    stock, ours = build(plan), build(plan, {"sequence": "frames"}, input_channels=6)
    added = 0
    for stage, block in ours.salstm.items():
        voxels = [edge // 2 ** int(stage) for edge in size]
        cells = math.prod(math.ceil(s / c) for s, c in zip(voxels, block.stride, strict=True))
        hidden = block.layer.in_channels
        added += 3 * cells * (hidden + 16 * hidden + block.channels)
    encoder = stock.encoder.compute_conv_feature_map_size(size)
    assert ours.compute_conv_feature_map_size(size) == stock.compute_conv_feature_map_size(size) + 2 * encoder + added


@pytest.mark.parametrize(
    ("placement", "stages"), [("all", "012"), ("bottleneck", "2"), ("skips", "01"), ([1], "1")], ids=str
)
def test_placement(placement, stages):
    network = build(PLANS["anisotropic"], {"placement": placement})
    assert list(network.salstm) == list(stages)


def test_grids_follow_the_strides_of_the_plan():
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert [cell_size(strides, stage, 2) for stage in range(4)] == [(2, 4, 4), (2, 4, 4), (1, 2, 2), (1, 1, 1)]
    assert [cell_size(strides, stage, 1) for stage in range(4)] == [(1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 1)]
    assert [cell_size(strides, stage, 0) for stage in range(4)] == [(1, 1, 1)] * 4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("module", ["A", "B"])
def test_adds_at_most_a_fifth_of_the_parameters(preset, module):
    with torch.device("meta"):
        stock, ours = build(PRESETS[preset]), build(PRESETS[preset], {"module": module})
    count = [sum(p.numel() for p in network.parameters()) for network in (stock, ours)]
    assert 1.0 < count[1] / count[0] <= 1.20


def test_feature_map_size_counts_the_blocks():
    plan = PLANS["anisotropic"]
    stock, ours = build(plan), build(plan, {"module": "A"})
    size = plan["patch_size"]
    added = 0
    seen = []
    for block in ours.salstm.values():
        for module in block.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                seen.append(module)
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    ours(torch.zeros(1, 2, *size))
    for output, block in zip([x for x in seen if torch.is_tensor(x)], ours.salstm.values(), strict=True):
        cells = math.prod(math.ceil(s / c) for s, c in zip(output.shape[2:], block.stride, strict=True))
        hidden = block.layer.in_channels
        added += cells * (hidden + 16 * hidden + block.channels)
    assert ours.compute_conv_feature_map_size(size) == stock.compute_conv_feature_map_size(size) + added
    assert add_salstm(build(plan), {"module": "conv"}).salstm["0"].compute_conv_feature_map_size((8, 24, 16)) > 0


@pytest.mark.parametrize("size", [(8, 24, 16), (16, 8, 24), (4, 4, 4)], ids=str)
def test_takes_the_sizes_that_the_stock_network_takes(size):
    plan = PLANS["anisotropic"]
    ours = build(plan, {"module": "B"})
    train_last_convolutions(ours)
    x = torch.randn(1, 2, *size)
    assert [o.shape for o in ours(x)] == [o.shape for o in build(plan)(x)]


def test_prediction_network_loads_the_training_networks_state():
    plan = PLANS["anisotropic"]
    trained, predicting = build(plan, {"module": "A"}), build(plan, {"module": "A"}, seed=1, deep_supervision=False)
    train_last_convolutions(trained)
    predicting.load_state_dict(trained.state_dict())
    x = torch.randn(1, 2, *plan["patch_size"])
    assert torch.equal(predicting(x), trained(x)[0])


def pickled(network):
    return pickle.loads(pickle.dumps(network))


def ours():
    return build(PLANS["2D"], {"module": "B"})


def extended():
    return add_salstm(build(PLANS["2D"]), {"module": "B"})


@pytest.mark.parametrize("make", [ours, extended])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_copies_stand_on_their_own(duplicate, make):
    network = make()
    x = torch.randn(1, 2, *PLANS["2D"]["patch_size"])
    twin = duplicate(network)
    train_last_convolutions(network)
    assert type(twin) is type(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert torch.equal(twin(x)[0], build(PLANS["2D"])(x)[0])
    assert not torch.equal(network(x)[0], twin(x)[0])
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network(x)[0], twin(x)[0])


def test_both_ways_to_blocks_are_the_same_network():
    x = torch.randn(1, 2, *PLANS["2D"]["patch_size"])
    one, other = ours(), extended()
    assert isinstance(other, PlainConvUNet)
    assert list(one.state_dict()) == list(other.state_dict())
    train_last_convolutions(one)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x)[0], other(x)[0])


def test_another_encoder_gets_the_blocks():
    network, x = ours(), torch.randn(1, 2, *PLANS["2D"]["patch_size"])
    train_last_convolutions(network)
    expected = network(x)[0]
    network.encoder = copy.deepcopy(network.encoder)
    assert torch.equal(network(x)[0], expected)


@pytest.mark.parametrize("name", ["encoder", "salstm"])
def test_an_extended_network_keeps_its_blocks(name):
    network = extended()
    with pytest.raises(AttributeError, match=rf"network.{name} must stay, or the blocks would be left out: load"):
        setattr(network, name, getattr(extended(), name))


@pytest.mark.parametrize("make", [ours, extended])
def test_tensors_that_a_hook_keeps_do_not_change(make):
    network, kept = make(), []
    network.encoder.stages[0].register_forward_hook(lambda _, inputs, output: kept.append((output, output.clone())))
    network.encoder.register_forward_hook(lambda _, inputs, skips: kept.extend((skip, skip.clone()) for skip in skips))
    train_last_convolutions(network)
    with torch.inference_mode():
        network.eval()(torch.randn(1, 2, *PLANS["2D"]["patch_size"]))
    assert len(kept) == 4
    assert all(torch.equal(tensor, before) for tensor, before in kept)


@pytest.mark.parametrize("make", [ours, extended])
def test_functional_calls_and_their_gradients(make):
    network, x = make(), torch.randn(1, 2, *PLANS["2D"]["patch_size"])
    train_last_convolutions(network)

    def loss_of(outputs):
        return sum(output.square().mean() for output in outputs)

    loss_of(network(x)).backward()
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    # The last use of the network: modules with two names, as nnU-Net's, do not get their own weights back.
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    found = torch.func.grad(lambda values: loss_of(torch.func.functional_call(network, values, x)))(parameters)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name
    assert max(gradient.abs().max() for name, gradient in found.items() if name.startswith("salstm")) > 1e-3


def initialise_every_convolution(module):
    if isinstance(module, nn.Conv2d):
        nn.init.ones_(module.weight)


@pytest.mark.parametrize("make", [ours, extended])
def test_the_start_can_be_restored(make):
    network, stock = make(), build(PLANS["2D"])
    x = torch.randn(1, 2, *PLANS["2D"]["patch_size"])
    network.apply(initialise_every_convolution)
    stock.apply(initialise_every_convolution)
    assert not torch.equal(network(x)[0], stock(x)[0])
    reset_blocks(network)
    assert torch.equal(network(x)[0], stock(x)[0])
    assert network.salstm["0"].layer.layer.forward_net.cell0.conv.weight.std() > 0


def test_extends_any_network_with_encoder_and_decoder():
    torch.manual_seed(0)
    network = ResidualUNet(
        1, 3, (4, 8, 8), nn.Conv3d, 3, (1, 2, 2), 1, 2, 1, norm_op=nn.BatchNorm3d, nonlin=nn.ReLU, norm_op_kwargs={}
    )
    x = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        expected = network.eval()(x)
        extended = add_salstm(network, SALSTMConfig(module="B", placement="skips"))
        assert extended is network
        assert torch.equal(network.eval()(x), expected)
        train_last_convolutions(network)
        assert not torch.equal(network(x), expected)
    assert {key.split(".")[0] for key in network.state_dict()} == {"encoder", "decoder", "salstm"}


def test_blocks_take_the_dtype_of_the_network():
    network = add_salstm(build(PLANS["2D"]).double(), {"module": "B"})
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert network(torch.randn(1, 2, *PLANS["2D"]["patch_size"], dtype=torch.double))[0].dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_blocks_are_in_the_networks_mode(training):
    network = add_salstm(build(PLANS["2D"]).train(training), {"module": "A"})
    assert {module.training for module in network.modules()} == {training}


class WithoutSkips(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Linear(1, 1), "network must have .encoder and .decoder, Linear has no .encoder"),
        (lambda: WithoutSkips(encoder=nn.Identity()), "WithoutSkips has no .decoder"),
        (
            lambda: WithoutSkips(encoder=nn.Identity(), decoder=nn.Identity()),
            "network.encoder must have conv_op, .* it has no conv_op, output_channels, strides",
        ),
        (extended, "network must not have blocks already, PlainConvUNetWithSALSTM has .salstm"),
        (
            lambda: WithoutSkips(encoder=extended().encoder, decoder=nn.Identity()),
            "network.encoder must not have the blocks of another network",
        ),
        (
            lambda: torch.compile(build(PLANS["2D"])),
            "network must have its class's own forward: add blocks first, then compile",
        ),
        (
            lambda: WithoutSkips(encoder=torch.compile(build(PLANS["2D"]).encoder), decoder=nn.Identity()),
            "network.encoder must have its class's own forward",
        ),
    ],
)
def test_refuses_other_networks(network, message):
    with pytest.raises(ValueError, match=message):
        add_salstm(network())


class SkipsApart(nn.Module):
    """An encoder that returns its bottleneck and its skips apart, as many do."""

    conv_op, norm_op, norm_op_kwargs = nn.Conv2d, None, {}
    output_channels, strides = (4, 4, 4), ((1, 1), (2, 2), (2, 2))

    def forward(self, x):
        skips = [x, x[..., ::2, ::2]]
        return x[..., ::4, ::4], skips


def test_refuses_encoders_that_return_something_else():
    network = WithoutSkips(encoder=SkipsApart(), decoder=nn.Identity(), weight=nn.Parameter(torch.zeros(1)))
    add_salstm(network)
    with pytest.raises(ValueError, match=r"network.encoder must return a list of 3 skips, one a stride, got 2"):
        network.encoder(torch.zeros(1, 4, 8, 8))


def test_refuses_a_configuration_that_does_not_fit():
    with pytest.raises(ValueError, match="reduction must divide the 8 channels"):
        add_salstm(build(PLANS["2D"]), {"reduction": 3})


@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", ["A", "B"])
@pytest.mark.parametrize("name", ["anisotropic", "2D"])
def test_finite_under_autocast_with_large_inputs(name, module, dtype):
    network = build(PLANS[name], {"module": module})
    train_last_convolutions(network)
    x = 1e4 * torch.randn(1, 2, *PLANS[name]["patch_size"])
    with torch.autocast("cpu", dtype=dtype):
        outputs = network(x)
        loss = sum(output.float().square().mean() for output in outputs)
    loss.backward()
    assert all(torch.isfinite(output).all() for output in outputs)
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
