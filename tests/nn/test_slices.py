"""All slices at once: equal to the layer slice by slice, outputs and gradients."""

import pytest
import torch
from closeness import assert_close, gradients

from nnunetv2_salstm.nn import SALSTM, GatedStateAttention, SliceSALSTM, StateValue


def slice_by_slice(layer, volume, steps, boundary):
    """The reference: for every slice, each direction's net over the sequence that ends there."""
    slices = volume.unbind(2)
    last = len(slices) - 1
    outputs = []
    for z in range(len(slices)):
        positions = {"forward": range(z - steps + 1, z + 1), "reverse": range(z + steps - 1, z - 1, -1)}
        if boundary == "zero":
            sequence = {name: [slices[p] for p in around if 0 <= p <= last] for name, around in positions.items()}
        else:
            sequence = {name: [slices[min(max(p, 0), last)] for p in around] for name, around in positions.items()}
        attended = layer.forward_net(sequence["forward"]), layer.reverse_net(sequence["reverse"])
        outputs.append(layer.join(torch.cat(attended, dim=1), dtype=volume.dtype))
    return torch.stack(outputs, dim=2)


def assert_equal_outputs_and_gradients(layer, volume, actual, expected):
    assert_close("output", actual, expected)
    inputs = {"volume": volume, **dict(layer.named_parameters())}
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(actual, inputs).items():
        if expected_gradients[name].abs().max() == 0:
            assert gradient.abs().max() == 0, name
        else:
            assert_close(f"gradient of {name}", gradient, expected_gradients[name])


@pytest.mark.parametrize("boundary", ["zero", "replicate"])
@pytest.mark.parametrize("module", ["A", "B", StateValue], ids=["A", "B", "off"])
@pytest.mark.parametrize(("depth", "steps"), [(1, 2), (1, 3), (2, 2), (2, 3), (5, 2), (5, 3), (5, 5), (3, 7)])
def test_equals_the_layer_slice_by_slice(depth, steps, module, boundary):
    torch.manual_seed(depth + 10 * steps)
    layer = SALSTM(3, 4, 2, kernel_size=3, module=module).double()
    volume = torch.randn(2, 3, depth, 7, 5, dtype=torch.double, requires_grad=True)
    actual = SliceSALSTM(layer, steps, boundary)(volume)
    assert_equal_outputs_and_gradients(layer, volume, actual, slice_by_slice(layer, volume, steps, boundary))


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_stacked_layers_and_all_dimensions(num_layers, spatial_dims):
    torch.manual_seed(num_layers)
    layer = SALSTM(3, 4, 2, 3, num_layers, "B", spatial_dims=spatial_dims).double()
    volume = torch.randn(1, 3, 4, *[5, 3, 2][:spatial_dims], dtype=torch.double, requires_grad=True)
    actual = SliceSALSTM(layer, steps=3)(volume)
    assert_equal_outputs_and_gradients(layer, volume, actual, slice_by_slice(layer, volume, 3, "zero"))


def test_two_steps_are_the_authors_signature():
    torch.manual_seed(0)
    layer = SALSTM(3, 4, 2, kernel_size=5, attention_size=50).double()
    volume = torch.randn(1, 3, 4, 9, 8, dtype=torch.double)
    before, current, after = [None, *volume.unbind(2)[:-1]], volume.unbind(2), [*volume.unbind(2)[1:], None]
    expected = torch.stack([layer(*triple) for triple in zip(before, current, after, strict=True)], dim=2)
    assert_close("output", SliceSALSTM(layer)(volume), expected)


@pytest.mark.parametrize("steps", [2, 3])
def test_repeat_feeds_every_slice_with_itself(steps):
    torch.manual_seed(1)
    layer = SALSTM(3, 4, 2, 3, module="B").double()
    repeat = SliceSALSTM(layer, steps, sequence="repeat")
    image = torch.randn(2, 3, 6, 5, dtype=torch.double)
    expected = layer.join(
        torch.cat([layer.forward_net([image] * steps), layer.reverse_net([image] * steps)], dim=1), image.dtype
    )
    assert_close("image", repeat(image), expected)
    if steps == 2:
        assert_close("image by the authors' signature", repeat(image), layer(image, image, image))
    volume = torch.randn(2, 3, 4, 6, 5, dtype=torch.double)
    expected = torch.stack([repeat(x) for x in volume.unbind(2)], dim=2)
    assert_close("volume", repeat(volume), expected)


def test_the_full_scan_reaches_every_slice():
    torch.manual_seed(2)
    layer = SALSTM(2, 3, 1, 3).double()
    volume = torch.randn(1, 2, 5, 4, 4, dtype=torch.double, requires_grad=True)
    reach = {}
    for steps in (2, 3, 5):
        (gradient,) = torch.autograd.grad(SliceSALSTM(layer, steps)(volume)[:, :, 0].sum(), volume)
        reach[steps] = [bool(slice_.abs().max() > 0) for slice_ in gradient.unbind(2)]
    assert reach == {2: [True, True, False, False, False], 3: [True, True, True, False, False], 5: [True] * 5}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sequence", ["slices", "repeat"])
def test_computes_in_float32_under_autocast(sequence, dtype, monkeypatch):
    layer = SliceSALSTM(SALSTM(2, 3, 1, 3, module="B"), steps=3, sequence=sequence)
    volume = torch.randn(1, 2, 4, 5, 6).to(dtype)
    seen = []
    factors = GatedStateAttention.factors
    monkeypatch.setattr(GatedStateAttention, "factors", lambda self, state: seen.extend(state) or factors(self, state))
    expected = layer(volume.float())
    with torch.autocast("cpu", dtype=dtype):
        output = layer(volume)
    assert len(seen) == 24  # six states, two directions, twice
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))


def test_one_slice_gives_every_weight_a_gradient():
    layer = SliceSALSTM(SALSTM(2, 3, 1, 3, num_layers=2, module="B"))
    layer(torch.randn(1, 2, 1, 4, 4)).sum().backward()
    missing = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps must be at least 2 .* got 1"),
        ({"boundary": "wrap"}, "boundary must be one of zero, replicate, got 'wrap'"),
        ({"sequence": "time"}, "sequence must be one of slices, repeat, got 'time'"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SliceSALSTM(SALSTM(2, 3, 1, 3), **arguments)


@pytest.mark.parametrize(
    ("shape", "sequence"),
    [((1, 2, 4, 4), "slices"), ((1, 3, 2, 4, 4), "slices"), ((1, 2, 2, 2, 4, 4), "repeat"), ((2, 4, 4), "repeat")],
)
def test_refuses_wrong_inputs(shape, sequence):
    with pytest.raises(ValueError, match=r"x must be \(B, 2, D, \*S\) with slices of 2 axes, got"):
        SliceSALSTM(SALSTM(2, 3, 1, 3), sequence=sequence)(torch.zeros(shape))
