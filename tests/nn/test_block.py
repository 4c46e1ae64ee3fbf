"""The block: identity at the start, every size, finite in half precision."""

import itertools

import pytest
import torch
from closeness import assert_close, gradients
from torch import nn

from nnunetv2_salstm.nn import SALSTM, ConvControl, GatedStateAttention, SALSTMBlock, SliceSALSTM, StateAttention
from nnunetv2_salstm.nn.convlstm import mix_channels
from nnunetv2_salstm.nn.pooling import average_pool

NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def make_block(dims=3, channels=8, stride=None, module="A", hidden=4, trained=True, gain=0.0, form="authors"):
    torch.manual_seed(0)
    stride = stride or (2,) * dims
    if module == "conv":
        layer = ConvControl(hidden, hidden, channels, spatial_dims=dims)
    else:
        attention = {"A": StateAttention, "B": GatedStateAttention}[module]
        salstm = SALSTM(
            hidden, hidden, channels, 3, module=lambda h: attention(h, tau=570, form=form), spatial_dims=min(dims, 2)
        )
        layer = SliceSALSTM(salstm, sequence="slices" if dims == 3 else "repeat")
    block = SALSTMBlock(channels, layer, stride, NORMS[dims](hidden, affine=True), gain)
    if trained:
        nn.init.normal_(block.layer.output_convolution.weight, std=0.3)
    return block


@pytest.mark.parametrize("module", ["A", "B", "conv"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_starts_as_the_identity(dims, module):
    block = make_block(dims, module=module, trained=False)
    x = torch.randn(2, 8, *[7, 6, 5][:dims])
    assert torch.equal(block(x), x)
    block.reset_parameters()
    assert torch.equal(block(x), x)
    assert not torch.equal(make_block(dims, module=module)(x), x)


@pytest.mark.parametrize("module", ["A", "B", "conv"])
def test_starts_as_the_initial_gain_says(module):
    weights = {}
    for gain in (0.5, 1.0):
        block = make_block(channels=64, module=module, hidden=16, trained=False, gain=gain)
        for _ in range(2):
            assert (block.layer.output_convolution.bias == 0).all()
            weights[gain] = block.layer.output_convolution.weight.std().item()
            # nnU-Net's own: He et al. for leaky ReLU of slope 1e-2, over 32 inputs.
            assert weights[gain] == pytest.approx(gain * (2 / (1 + 1e-4) / 32) ** 0.5, rel=0.05)
            block.reset_parameters()
    assert "initial_gain=1.0" in repr(block)


@pytest.mark.parametrize("gain", [-1.0, float("nan")])
def test_refuses_a_negative_gain(gain):
    with pytest.raises(ValueError, match="initial_gain must be at least 0, got"):
        make_block(gain=gain)


def test_leaves_its_input_as_it_was():
    block, x = make_block(stride=(1, 1, 1)), torch.randn(1, 8, 3, 4, 5)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", [*itertools.product([1, 2, 5], repeat=3), (1, 17, 33), (3, 1, 64)], ids=str)
def test_takes_every_size(size):
    block = make_block(stride=(2, 4, 4))
    x = torch.randn(1, 8, *size, requires_grad=True)
    output = block(x)
    assert output.shape == x.shape
    inputs = {"x": x, **dict(block.named_parameters())}
    for name, gradient in gradients(output, inputs).items():
        assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize(
    ("cell", "size"), [((3,), (8,)), ((2, 4), (5, 6)), ((2, 1, 4), (5, 3, 6)), ((2, 4, 4), (1, 9, 3))], ids=str
)
def test_cells_average_and_spread_their_own_voxels(cell, size):
    # A layer that returns its input shows the grid: every voxel of a cell gets the mean of that cell.
    block = make_block(len(cell), channels=1, stride=cell, hidden=1)
    nn.init.ones_(block.reduce.weight)
    nn.init.zeros_(block.reduce.bias)
    block.norm, block.layer = None, nn.Identity()
    x = torch.randn(1, 1, *size)
    expected = torch.zeros(size)
    for voxel in itertools.product(*map(range, size)):
        own = tuple(
            slice(v // length * length, (v // length + 1) * length) for v, length in zip(voxel, cell, strict=True)
        )
        expected[voxel] = x[0, 0][own].mean()
    assert torch.allclose((block(x) - x)[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm3d(8, eps=1e-2, affine=True),
        nn.InstanceNorm3d(8),
        nn.InstanceNorm3d(8, affine=True, track_running_stats=True),
        nn.BatchNorm3d(8),
    ],
    ids=str,
)
def test_normalises_as_the_norm_does(norm):
    torch.manual_seed(0)
    block = make_block()
    block.norm = norm.double().eval()
    for tensor in norm.state_dict().values():
        tensor.copy_(tensor + torch.rand(8)) if tensor.dim() else None
    x = torch.randn(2, 8, 3, 4, 5, dtype=torch.double, requires_grad=True)
    inputs = {"x": x, **dict(norm.named_parameters())}
    assert_close("output", block.normalise(x), norm(x))
    ours, reference = gradients(block.normalise(x), inputs), gradients(norm(x), inputs)
    for name in inputs:
        assert_close(name, ours[name], reference[name])


def test_a_grid_of_one_cell_skips_the_statistics_but_not_the_affine_part():
    block = make_block(stride=(4, 4, 4))
    x = torch.randn(1, 8, 3, 4, 4)
    block(x).sum().backward()
    assert block.norm.weight.grad is not None
    assert block.norm.bias.grad is not None
    with torch.no_grad():
        block.norm.bias.fill_(1.0)
        changed = block(x)
        block.norm.bias.fill_(0.0)
        assert not torch.equal(block(x), changed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("module", "form"),
    [("A", "authors"), ("A", "centred"), ("A", "correlation"), ("B", "authors"), ("conv", "authors")],
)
@pytest.mark.parametrize("input_dtype", ["half", "float32"])
def test_large_inputs_stay_finite_under_autocast(module, form, dtype, input_dtype):
    block = make_block(2, channels=16, stride=(4, 4), module=module, hidden=8, form=form)
    x = 1e4 * torch.randn(1, 16, 256, 256).clamp(-3, 3)
    x[:, 1] = 3e4  # a channel that is large everywhere
    x = x.to(dtype if input_dtype == "half" else torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = block(x)
    assert output.dtype == x.dtype
    assert torch.isfinite(output).all()
    for name, gradient in gradients(output, {"x": x, **dict(block.named_parameters())}).items():
        assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", ["A", "conv"])
def test_computes_in_float32_under_autocast(module, dtype):
    block, x = make_block(module=module), torch.randn(1, 8, 4, 6, 6).to(dtype)
    grid = average_pool(x, block.stride)
    seen = []
    block.layer.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    with torch.autocast("cpu", dtype=dtype):
        block(x)
    expected = block.layer(block.normalise(mix_channels(grid.float(), block.reduce.weight, block.reduce.bias)))
    assert [tensor.dtype for tensor in seen[:2]] == [torch.float32] * 2
    assert torch.equal(seen[1], expected)


def test_gradients_that_float16_cannot_hold_stay_finite():
    # Every weight of `reduce` sums 1e4 times its gradient over 4096 cells; nothing normalises it.
    block = make_block(2, stride=(4, 4))
    block.norm = None
    nn.init.constant_(block.reduce.weight, 1e-5)
    x = torch.full((1, 8, 256, 256), 1e4).half()
    with torch.autocast("cpu", dtype=torch.float16):
        output = block(x)
    output.float().sum().backward()
    assert torch.isfinite(block.reduce.weight.grad).all()
    assert block.reduce.weight.grad.abs().max() > 65_504


@pytest.mark.parametrize("fill", [0.0, 5.0, 1e4])
def test_constant_inputs_stay_finite(fill):
    block = make_block()
    x = torch.full((1, 8, 4, 6, 6), fill, requires_grad=True)
    for name, gradient in gradients(block(x), {"x": x, **dict(block.named_parameters())}).items():
        assert torch.isfinite(gradient).all(), name


def test_weights_in_float16_compute_in_float32():
    """The channel mix of such inputs is beyond float16."""
    block = make_block()
    with torch.no_grad():
        block.reduce.weight.fill_(4.0)
    x = 1e4 * torch.rand(1, 8, 4, 8, 8)
    expected = block.contribution(x.half().float())
    assert_close("contribution", block.half().contribution(x.half()), expected, relative=0.02)


def test_runs_with_weights_in_bfloat16():
    block, x = make_block(), torch.randn(1, 8, 4, 6, 6)
    expected = block(x)
    output = block.bfloat16()(x.bfloat16())
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.2 * expected.abs().max()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("hidden", [8, 16, 32])
def test_the_control_has_about_the_parameters_of_the_salstm(dims, hidden):
    count = {
        module: sum(p.numel() for p in make_block(dims, 4 * hidden, module=module, hidden=hidden).parameters())
        for module in ("A", "conv")
    }
    assert count["conv"] == pytest.approx(count["A"], rel=0.03)


def test_the_control_sees_the_same_neighbours():
    reach = {}
    for module in ("A", "conv"):
        block = make_block(module=module, stride=(1, 1, 1))
        block.norm = None
        x = torch.randn(1, 8, 7, 5, 5, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x)[:, :, 3].sum(), x)
        reach[module] = (gradient.abs().amax(dim=(0, 1, 3, 4)) > 0).tolist()
    assert reach["A"] == reach["conv"] == [False, False, True, True, True, False, False]


def test_feature_map_size_counts_what_the_convolutions_return():
    block = make_block(stride=(1, 2, 2), hidden=4, channels=8)
    cells = 3 * 3 * 4  # of a 3 x 5 x 7 map
    gates = 2 * 4 * 4  # two directions, four gates, four channels
    assert block.compute_conv_feature_map_size((3, 5, 7)) == cells * (4 + gates + gates + 8)


def test_refuses_wrong_arguments_and_inputs():
    layer = SliceSALSTM(SALSTM(4, 4, 8, 3))
    with pytest.raises(ValueError, match="layer must return 16 channels as x has, got 8"):
        SALSTMBlock(16, layer, (1, 2, 2))
    with pytest.raises(
        ValueError, match=r"layer must be a SliceSALSTM or a ConvControl, got SALSTM; .* SliceSALSTM\(la"
    ):
        SALSTMBlock(8, layer.layer, (1, 2, 2))
    for stride in ((0, 2, 2), 2, ()):
        with pytest.raises(ValueError, match="stride must be 1 to 3 lengths of at least 1 voxel, one for each spatial"):
            SALSTMBlock(8, layer, stride)
    block = SALSTMBlock(8, layer, (1, 2, 2))
    for shape in [(1, 8, 4, 4), (1, 4, 4, 4, 4)]:
        with pytest.raises(ValueError, match=r"x must be \(B, 8, \*S\) with 3 spatial axes, got"):
            block(torch.zeros(shape))


def test_a_single_cell_has_the_running_statistics_of_a_trained_norm():
    block = SALSTMBlock(4, SliceSALSTM(SALSTM(2, 2, 4, 3)), (2, 2, 2), nn.BatchNorm3d(2))
    block.norm.running_mean.fill_(3.0)
    x = torch.rand(1, 2, 1, 1, 1)
    assert torch.equal(block.normalise(x), x)  # in training there are no statistics to be had
    block.eval()
    assert torch.allclose(block.normalise(x), block.norm(x))
