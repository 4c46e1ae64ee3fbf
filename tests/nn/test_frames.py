"""The block for 2.5D: the authors' layer on three frames, added to the current one."""

from functools import partial

import pytest
import torch
from closeness import assert_close, gradients
from torch import nn
from torch.nn import functional as F

from nnunetv2_salstm.nn import SALSTM, ConvControl, FrameBlock, GatedStateAttention, SliceSALSTM, StateAttention

ATTENTIONS = {"A": StateAttention, "B": GatedStateAttention}


def make_block(module="A", stride=(2, 2), trained=True):
    torch.manual_seed(0)
    if module == "conv":
        layer = ConvControl(4, 4, 8, spatial_dims=3)
    else:
        layer = SliceSALSTM(SALSTM(4, 4, 8, 3, module=partial(ATTENTIONS[module], tau=570)))
    block = FrameBlock(8, layer, stride, nn.InstanceNorm2d(4, affine=True))
    if trained:
        nn.init.normal_(block.layer.output_convolution.weight, std=0.3)
    return block


def reference(block, current, previous, following):
    """The equations as they stand: three frames reduced one by one, the authors' layer, its output for the current."""

    def reduce(frame):
        return block.norm(block.reduce(F.avg_pool2d(frame, block.stride)))

    contribution = block.layer.layer(reduce(previous), reduce(current), reduce(following))
    return current + F.interpolate(contribution, scale_factor=block.stride, mode="nearest")


@pytest.mark.parametrize("module", ["A", "B"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 2)], ids=str)
def test_equals_the_authors_layer_on_three_frames(module, stride):
    block = make_block(module, stride).double()
    frames = torch.randn(3, 2, 8, 8, 12, dtype=torch.double).requires_grad_()
    inputs = {"frames": frames, **dict(block.named_parameters())}
    results = []
    for output in (block(frames.flatten(0, 1)), reference(block, *frames)):
        results.append({"output": output, **gradients(output, inputs)})
    for name, expected in results[1].items():
        if name != "reduce.bias":  # without influence before the normalisation: rounding only
            assert_close(name, results[0][name], expected, relative=1e-9)
    assert results[0]["frames"].abs().flatten(1).amax(1).min() > 0  # each of the frames matters


@pytest.mark.parametrize("module", ["A", "B", "conv"])
def test_starts_as_the_current_frame(module):
    frames = torch.randn(3, 2, 8, 7, 5)
    assert torch.equal(make_block(module, trained=False)(frames.flatten(0, 1)), frames[0])
    assert not torch.equal(make_block(module)(frames.flatten(0, 1)), frames[0])


@pytest.mark.parametrize("module", ["A", "B", "conv"])
def test_samples_do_not_mix(module):
    block = make_block(module).eval()
    frames = torch.randn(3, 4, 8, 6, 6)
    together = block(frames.flatten(0, 1))
    alone = torch.cat([block(frames[:, sample]) for sample in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("module", ["A", "B", "conv"])
def test_previous_and_next_are_told_apart(module):
    block = make_block(module)
    current, previous, following = torch.randn(3, 1, 8, 6, 6)
    there, back = (block(torch.cat([current, *others])) for others in ((previous, following), (following, previous)))
    assert (there - back).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_inputs_stay_finite_under_autocast(dtype):
    block = make_block("B", stride=(4, 4))
    x = (1e4 * torch.randn(3, 8, 64, 64).clamp(-3, 3)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = block(x)
    assert output.dtype == dtype
    for name, value in {"y": output, **gradients(output, {"x": x, **dict(block.named_parameters())})}.items():
        assert torch.isfinite(value).all(), name


def test_feature_map_size_counts_three_frames():
    block = make_block()
    cells = 3 * 4  # of a 5 x 7 map
    gates = 2 * 4 * 4  # two directions, four gates, four channels
    assert block.compute_conv_feature_map_size((5, 7)) == 3 * cells * (4 + gates + gates + 8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 8, 6, 6), r"x must be \(3B, ...\), current, previous and next frames, got \(4, 8, 6, 6\)"),
        ((3, 4, 6, 6), r"x must be \(B, 8, \*S\) with 2 spatial axes"),
        ((3, 8, 6, 6, 6), r"x must be \(B, 8, \*S\) with 2 spatial axes"),
    ],
)
def test_refuses_other_inputs(shape, message):
    with pytest.raises(ValueError, match=message):
        make_block()(torch.zeros(shape))
