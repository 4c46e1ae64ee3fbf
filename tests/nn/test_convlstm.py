"""The cell: equal to torch's LSTM cell where both are defined."""

import pytest
import torch
from closeness import assert_close, gradients

from nnunetv2_salstm.nn import ConvLSTMCell
from nnunetv2_salstm.nn.convlstm import CONVOLUTIONS, mix_channels


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_on_one_pixel_it_is_the_lstm_cell(spatial_dims):
    torch.manual_seed(0)
    cell = ConvLSTMCell(3, 5, kernel_size=1, spatial_dims=spatial_dims).double()
    expected = torch.nn.LSTMCell(3, 5).double()
    weight = cell.conv.weight.detach().reshape(4, 5, 8)  # gates i, f, o, g
    bias = cell.conv.bias.detach().reshape(4, 5)
    order = [0, 1, 3, 2]  # torch's gates are i, f, g, o
    with torch.no_grad():
        expected.weight_ih.copy_(weight[order, :, :3].reshape(20, 3))
        expected.weight_hh.copy_(weight[order, :, 3:].reshape(20, 5))
        expected.bias_ih.copy_(bias[order].reshape(20))
        expected.bias_hh.zero_()
    inputs = torch.randn(4, 2, 3, dtype=torch.double)
    state, h, c = None, torch.zeros(2, 5, dtype=torch.double), torch.zeros(2, 5, dtype=torch.double)
    for x in inputs:
        state = cell(x.reshape(2, 3, *[1] * spatial_dims), state)
        h, c = expected(x, (h, c))
        assert_close("h", state.h.flatten(1), h)
        assert_close("c", state.c.flatten(1), c)


def test_returns_all_states_and_gates():
    torch.manual_seed(1)
    cell = ConvLSTMCell(2, 3, kernel_size=3).double()
    first = cell(torch.randn(1, 2, 4, 5, dtype=torch.double))
    state = cell(torch.randn(1, 2, 4, 5, dtype=torch.double), first)
    assert state._fields == ("h", "c", "i", "f", "o", "g")
    assert_close("c", state.c, state.f * first.c + state.i * state.g)
    assert_close("h", state.h, state.o * state.c.tanh())
    for name in ("i", "f", "o"):
        gate = getattr(state, name)
        assert (gate > 0).all(), name
        assert (gate < 1).all(), name


def test_the_first_step_equals_a_step_from_zero_states():
    torch.manual_seed(2)
    cell = ConvLSTMCell(2, 3, kernel_size=3).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.double)
    zero = torch.zeros(1, 3, 4, 5, dtype=torch.double)
    state, expected = cell(x), cell(x, cell(x)._replace(h=zero, c=zero))
    for name, value in expected._asdict().items():
        assert_close(name, getattr(state, name), value)


def test_one_step_gives_every_weight_a_gradient():
    cell = ConvLSTMCell(2, 3, kernel_size=3)
    cell(torch.randn(1, 2, 4, 5)).h.sum().backward()
    assert cell.conv.weight.grad.shape == cell.conv.weight.shape
    assert (cell.conv.weight.grad[:, 2:] == 0).all()
    assert (cell.conv.weight.grad[:, :2] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_states_are_float32_under_autocast(dtype):
    cell = ConvLSTMCell(2, 3, kernel_size=3)
    with torch.autocast("cpu", dtype=dtype):
        state = cell(torch.randn(1, 2, 4, 5))
        state = cell(torch.randn(1, 2, 4, 5).to(dtype), state)
    assert {x.dtype for x in state} == {torch.float32}


def test_runs_with_weights_in_bfloat16():
    cell = ConvLSTMCell(2, 3, kernel_size=3).bfloat16()
    assert cell(torch.randn(1, 2, 4, 5).bfloat16()).h.dtype == torch.float32


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 2)], ids=str)
def test_mixing_channels_is_a_convolution_with_a_kernel_of_one_voxel(size):
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[len(size)](5, 3, 1).double()
    x = torch.randn(2, 5, *size, dtype=torch.double, requires_grad=True)
    inputs = {"x": x, "weight": convolution.weight, "bias": convolution.bias}
    output, expected = mix_channels(*inputs.values()), convolution(x)
    assert_close("output", output, expected)
    ours, reference = gradients(output, inputs), gradients(expected, inputs)
    for name in inputs:
        assert_close(name, ours[name], reference[name])
