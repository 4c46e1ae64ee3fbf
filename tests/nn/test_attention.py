"""Attention over states: the paper's formula, its scale, and what B adds."""

import math

import pytest
import torch
from closeness import assert_close

from nnunetv2_salstm.nn import ConvLSTMCell, GatedStateAttention, StateAttention, StateValue
from nnunetv2_salstm.nn.convlstm import ConvLSTMState


@pytest.fixture
def state():
    torch.manual_seed(0)
    cell = ConvLSTMCell(3, 4, kernel_size=3).double()
    return cell(torch.randn(2, 3, 5, 6, dtype=torch.double), cell(torch.randn(2, 3, 5, 6, dtype=torch.double)))


def naive_attention(state, scale, gates=(None, None, None), form="authors"):
    """Y from the equations, pixel by pixel and channel by channel; gates are linear maps of h or None."""
    batch, channels, height, width = state.h.shape
    output = torch.zeros_like(state.h)
    for b in range(batch):
        q = ((state.c + state.f) / 2)[b].reshape(channels, -1)
        k = ((state.g + state.h) / 2)[b].reshape(channels, -1)
        v = state.h[b].reshape(channels, -1)
        q, k, v = (
            x if gate is None else x * torch.stack([gate(pixel) for pixel in v.T], dim=1)
            for x, gate in zip((q, k, v), gates, strict=True)
        )
        if form != "authors":
            q, k = (torch.stack([row - row.mean() for row in x]) for x in (q, k))
        if form == "correlation":
            # eps as torch's layer_norm has it, for 2Q and 2K
            q, k = (torch.stack([row / (row.square().mean() + 1e-5 / 4).sqrt() for row in x]) for x in (q, k))
        logits = torch.stack(
            [torch.stack([scale * (q[m] * k[n]).sum() for n in range(channels)]) for m in range(channels)]
        )
        weights = logits.exp() / logits.exp().sum(1, keepdim=True)
        output[b] = (weights @ v).reshape(channels, height, width)
    return output


@pytest.mark.parametrize(
    ("arguments", "scale"),
    [({}, 1 / math.sqrt(30)), ({"attention_size": 100}, 0.1), ({"tau": 570}, 570 / 30)],
    ids=["N", "attention_size", "tau"],
)
def test_module_a_is_the_papers_formula(state, arguments, scale):
    attention = StateAttention(4, **arguments)
    assert_close("Y", attention(state), naive_attention(state, scale))
    assert not list(attention.parameters())


@pytest.mark.parametrize("form", ["centred", "correlation"])
def test_our_forms_compare_without_the_means(state, form):
    attention = StateAttention(4, tau=57, form=form).double()
    scale = 57 if form == "centred" else attention.temperature.item()
    assert_close("Y", attention(state), naive_attention(state, scale / 30, form=form))
    # What is the same at every pixel has no say, unlike in the authors' form.
    shifted = state._replace(f=state.f + 0.5, g=state.g + torch.arange(4.0).view(1, 4, 1, 1))
    assert_close("matrix", attention(shifted), attention(state))
    authors = StateAttention(4, tau=57)
    assert (authors(shifted) - authors(state)).abs().max() > 0.01


def test_the_temperature_learns_and_is_drawn_anew(state):
    for attention in (StateAttention(4, tau=570, form="correlation"), GatedStateAttention(4, form="correlation")):
        attention.double()(ConvLSTMState(*(x.detach() for x in state))).sum().backward()
        assert attention.temperature.grad.abs() > 0
        torch.nn.init.zeros_(attention.temperature)
        attention.reset_parameters()
        assert attention.temperature == 10


@pytest.mark.parametrize("form", ["authors", "centred", "correlation"])
def test_states_that_are_the_same_everywhere_stay_finite(form):
    constant = [torch.full((1, 4, 3, 3), value, requires_grad=True) for value in (0.0, 0.1, 0.2, 0.5, 0.5, 0.3)]
    attention = StateAttention(4, tau=570, form=form)
    output = attention(ConvLSTMState(*constant))
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(x.grad).all() for x in constant if x.grad is not None)


def test_module_b_gates_query_key_and_value(state):
    torch.manual_seed(1)
    attention = GatedStateAttention(4, attention_size=7).double()
    for linear in (attention.q_matrix, attention.k_matrix, attention.v_matrix):
        torch.nn.init.normal_(linear.weight)
        torch.nn.init.normal_(linear.bias)
    gates = attention.q_matrix, attention.k_matrix, attention.v_matrix
    assert_close("Y", attention(state), naive_attention(state, 7**-0.5, gates))


def test_module_b_with_constant_gates_is_module_a(state):
    attention = GatedStateAttention(4, tau=570).double()
    for linear in (attention.q_matrix, attention.k_matrix, attention.v_matrix):
        torch.nn.init.zeros_(linear.weight)
    assert_close("Y", attention(state), StateAttention(4, tau=570)(state))


def test_module_b_starts_near_module_a(state):
    torch.manual_seed(2)
    a, b = StateAttention(4, tau=570)(state), GatedStateAttention(4, tau=570).double()(state)
    assert (a - b).abs().max() < 0.15 * a.abs().max()
    assert not torch.equal(a, b)


def test_tau_means_the_same_on_every_grid(state):
    # A state repeated over four times the pixels has the same means, hence the same matrix.
    attention = StateAttention(4, tau=570)
    tiled = type(state)(*(x.repeat(1, 1, 2, 2) for x in state))
    assert_close("matrix", attention(tiled)[..., :5, :6], attention(state))


def test_published_scale_is_tau_570():
    pixels = 224 * 224
    assert StateAttention(64, attention_size=88 * 88).scale(pixels) == pytest.approx(
        StateAttention(64, tau=570.18).scale(pixels), rel=1e-4
    )


def test_switched_off_returns_the_value(state):
    assert StateValue(4)(state) is state.h


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_size": 0}, "attention_size must be positive, got 0"),
        ({"tau": -1.0}, "tau must be positive, got -1.0"),
        ({"tau": float("nan")}, "tau must be positive, got nan"),
        ({"form": "dot"}, "form must be one of authors, centred, correlation, got 'dot'"),
        ({"tau": 1, "attention_size": 1}, "attention_size and tau exclude each other, got 1 and 1"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    for attention in (StateAttention, GatedStateAttention):
        with pytest.raises(ValueError, match=message):
            attention(4, **arguments)
