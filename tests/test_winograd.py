"""Convolution by tiles: equal to PyTorch's, outputs and gradients, and taken where it is faster."""

import pytest
import torch
from closeness import assert_close, gradients
from torch.nn.functional import conv2d

from nnunetv2_salstm.nn import ConvLSTMCell, winograd
from nnunetv2_salstm.nn.convlstm import convolve
from nnunetv2_salstm.nn.winograd import convolve_by_tiles, is_faster


def tensors(batch, channels, height, width, columns=5, out_channels=7, dtype=torch.double):
    generator = torch.Generator().manual_seed(height)
    shapes = {
        "x": (batch, channels, height, width),
        "weight": (out_channels, channels, 5, columns),
        "bias": (out_channels,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for name, shape in shapes.items()
    }


def plainly(x, weight, bias=None):
    return conv2d(x, weight, bias, padding=(2, weight.shape[3] // 2))


@pytest.mark.parametrize("columns", [1, 3, 5])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 13, 16])
def test_equals_the_convolution(height, columns):
    inputs = tensors(2, 3, height, 6, columns)
    actual, expected = convolve_by_tiles(**inputs), plainly(**inputs)
    assert_close("output", actual, expected, 1e-12)
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(actual, inputs).items():
        assert_close(f"gradient of {name}", gradient, expected_gradients[name], 1e-12)


@pytest.mark.parametrize("tiles_at_a_time", [1, 2, 3])
def test_tiles_taken_in_several_steps(tiles_at_a_time, monkeypatch):
    values_of_a_tile = 4 * 6 * (3 + 7)
    monkeypatch.setattr(winograd, "VALUES_AT_A_TIME", tiles_at_a_time * values_of_a_tile)
    test_equals_the_convolution(16, 5)
    test_equals_the_convolution(13, 5)


@pytest.mark.parametrize("needed", [("x",), ("weight",), ("bias",), ("x", "weight")])
def test_only_the_gradients_asked_for(needed):
    inputs = tensors(1, 3, 9, 6)
    for name, tensor in inputs.items():
        tensor.requires_grad_(name in needed)
    output, expected = convolve_by_tiles(**inputs), plainly(**inputs)
    expected.sum().backward()
    expected_gradients = {name: inputs[name].grad for name in needed}
    for tensor in inputs.values():
        tensor.grad = None
    output.sum().backward()
    for name, tensor in inputs.items():
        assert (tensor.grad is not None) == (name in needed)
        if name in needed:
            assert_close(name, tensor.grad, expected_gradients[name], 1e-12)


def test_second_derivatives():
    inputs = tensors(1, 2, 5, 3, out_channels=2)
    assert torch.autograd.gradcheck(convolve_by_tiles, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(convolve_by_tiles, tuple(inputs.values()))


@pytest.mark.parametrize("height", [8, 9])
def test_gates_may_be_added_in_place(height):
    inputs = tensors(1, 3, height, 6)
    more = torch.randn(1, 7, height, 6, dtype=torch.double)
    expected = gradients((plainly(**inputs) + more).tanh(), inputs)
    for name, gradient in gradients(convolve_by_tiles(**inputs).add_(more).tanh(), inputs).items():
        assert_close(name, gradient, expected[name], 1e-12)


def test_rounding_in_float32():
    inputs = {name: tensor.detach() for name, tensor in tensors(1, 64, 32, 32, out_channels=64).items()}
    exact = plainly(**inputs)
    single = {name: tensor.float() for name, tensor in inputs.items()}

    error = ((convolve_by_tiles(**single) - exact).square().mean() / exact.square().mean()).sqrt()
    assert error < 3e-6  # PyTorch's: 4e-7 to 7e-7


def test_a_constant_stays_a_constant():
    """Away from the edges, where all is the sum of the weights, also for large values."""
    x, weight = torch.full((1, 8, 24, 12), 1e4), torch.randn(4, 8, 5, 5)
    inner = convolve_by_tiles(x, weight)[:, :, 2:-2, 2:-2]
    expected = 1e4 * weight.sum((1, 2, 3)).view(1, 4, 1, 1).expand_as(inner)
    assert (inner - expected).abs().max() < 1e-5 * 1e4 * weight.abs().sum((1, 2, 3)).max()


SIZE = (1, 64, 64, 64)


@pytest.mark.parametrize(
    ("x", "weight", "expected"),
    [
        (SIZE, (256, 64, 5, 5), True),
        (SIZE, (256, 64, 5, 3), True),
        (SIZE, (256, 64, 3, 3), False),
        (SIZE, (256, 64, 7, 7), False),
        ((1, 64, 16, 16), (256, 64, 5, 5), False),  # a small image,
        ((64, 64, 16, 16), (256, 64, 5, 5), False),  # also many of them
        ((1, 16, 256, 256), (64, 16, 5, 5), False),  # few channels
        ((1, 64, 64, 64, 64), (256, 64, 5, 5, 5), False),  # volumes
        ((1, 64, 4096), (256, 64, 5), False),
    ],
)
def test_where_it_is_faster(x, weight, expected):
    assert is_faster(torch.empty(x), torch.empty(weight)) is expected
    assert not is_faster(torch.empty(x, device="meta"), torch.empty(weight, device="meta"))


def test_cells_take_it_for_large_slices(monkeypatch):
    taken = []
    monkeypatch.setattr(
        "nnunetv2_salstm.nn.convlstm.convolve_by_tiles", lambda *args: taken.append(1) or convolve_by_tiles(*args)
    )
    cell = ConvLSTMCell(32, 32)
    for edge, expected in ((16, 0), (64, 3)):
        x = torch.zeros(1, 32, edge, edge)
        cell(x, cell(x))
        assert len(taken) == expected  # input halves of two steps, the hidden half of the second


def test_backward_under_autocast():
    cell = ConvLSTMCell(32, 32)
    x = torch.randn(1, 32, 64, 64, requires_grad=True)
    inputs = {"x": x, **dict(cell.named_parameters())}
    expected = gradients(cell(x, cell(x)).h, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradients(cell(x, cell(x)).h, inputs)
    for name, gradient in actual.items():
        assert_close(name, gradient, expected[name], 1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_what_is_compiled_is_made_of_pytorchs_operations():
    x, weight = torch.empty(SIZE), torch.empty(256, 64, 5, 5)
    program = torch.export.export(Convolution(weight), (x,))
    assert "convolution" in str(program.graph) or "conv2d" in str(program.graph)
    assert "bmm" not in str(program.graph)
    assert is_faster(x, weight)
    traced = torch.jit.trace(Convolution(weight), (x,), check_trace=False)
    assert "bmm" not in str(traced.inlined_graph)


class Convolution(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x):
        return convolve(x, self.weight)
