"""The authors' layer: equal to golden runs of their code, outputs and every gradient."""

import pytest
import torch
from closeness import assert_close, gradients
from golden import LAYERS, load_layer

from nnunetv2_salstm.nn import SALSTM, ConvLSTMCell, StateValue


def test_golden_files_are_there():
    assert {path.stem for path in LAYERS} >= {
        "A_h4_k3",
        "A_h4_k3_2layers",
        "A_h8_k5",
        "A_in6_h4_k3",
        "B_h4_k3",
        "B_h8_k5",
    }


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_equals_the_authors_layer(path):
    layer, golden = load_layer(path)
    state = {key.removeprefix("state/"): value for key, value in golden.items() if key.startswith("state/")}
    assert layer.load_authors_state_dict(state) == 0
    inputs = {name: golden[f"in/{name}"].requires_grad_() for name in ("prev", "cur", "next")}
    output = layer(**inputs)
    output.backward(golden["gout"])
    assert_close("out", output.detach(), golden["out"])
    for name, tensor in inputs.items():
        assert_close(f"gradient of {name}", tensor.grad, golden[f"gin/{name}"])
    parameters = dict(layer.named_parameters())
    assert set(parameters) == {key.removeprefix("grad/") for key in golden if key.startswith("grad/")}
    for name, parameter in parameters.items():
        assert_close(f"gradient of {name}", parameter.grad, golden[f"grad/{name}"])


@pytest.mark.parametrize("prefix", ["", "lstmlayer.", "module.", "module.lstmlayer."])
def test_loads_checkpoints_with_any_of_the_authors_prefixes(prefix):
    torch.manual_seed(0)
    trained, layer = SALSTM(4, 4, 3, 3, module="B"), SALSTM(4, 4, 3, 3, module="B")
    checkpoint = {prefix + key: value for key, value in trained.state_dict().items()}
    outer = "module." if prefix.startswith("module.") else ""
    checkpoint |= {f"{outer}encoder.patch.weight": torch.ones(1), f"{outer}encoder.norm.bias": torch.ones(1)}
    assert layer.load_authors_state_dict(checkpoint) == 2
    for key, value in layer.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv.bias"), "missing conv.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "unknown extra"),
        (lambda state: state.update({"conv.bias": torch.ones(9)}), r"conv.bias is \(9,\) instead of \(3,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_refuses_checkpoints_that_do_not_fit(change, message):
    layer = SALSTM(4, 4, 3, 3)
    state, before = dict(layer.state_dict()), layer.conv.weight.clone()
    change(state)
    with pytest.raises(ValueError, match=message):
        layer.load_authors_state_dict(state)
    assert torch.equal(layer.conv.weight, before)


def test_published_size():
    # Hidden 64, kernel 5, 4 classes: the authors' parameter counts.
    count = {module: sum(p.numel() for p in SALSTM(64, 64, 4, module=module).parameters()) for module in "AB"}
    assert count == {"A": 1_639_428, "B": 1_664_388}


def naive_convlstm(cell: ConvLSTMCell, sequence: list[torch.Tensor]) -> torch.Tensor:
    """The textbook recursion with one convolution a gate, returning h."""
    hidden = cell.hidden_channels
    h = c = torch.zeros(sequence[0].shape[0], hidden, *sequence[0].shape[2:], dtype=sequence[0].dtype)
    for x in sequence:
        gate = {
            name: torch.nn.functional.conv2d(torch.cat([x, h], 1), weight, bias, padding=1)
            for name, weight, bias in zip(
                "ifog", cell.conv.weight.split(hidden), cell.conv.bias.split(hidden), strict=True
            )
        }
        c = torch.sigmoid(gate["f"]) * c + torch.sigmoid(gate["i"]) * torch.tanh(gate["g"])
        h = torch.sigmoid(gate["o"]) * torch.tanh(c)
    return h


def test_without_attention_it_is_the_bidirectional_convlstm():
    torch.manual_seed(1)
    layer = SALSTM(3, 4, 2, kernel_size=3, module=StateValue).double()
    prev, cur, following = torch.randn(3, 2, 3, 6, 5, dtype=torch.double)
    forward = naive_convlstm(layer.forward_net.cell0, [prev, cur])
    reverse = naive_convlstm(layer.reverse_net.cell0, [following, cur])
    assert_close("output", layer(prev, cur, following), layer.conv(torch.cat([forward, reverse], 1)))


def test_directions_mirror_each_other():
    torch.manual_seed(2)
    layer, mirrored = SALSTM(3, 4, 2, 3, module="B").double(), SALSTM(3, 4, 2, 3, module="B").double()
    state = layer.state_dict()
    swapped = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        swapped[{"forward_net": "reverse_net", "reverse_net": "forward_net"}.get(first, first) + "." + rest] = value
    swapped["conv.weight"] = state["conv.weight"].roll(4, dims=1)
    mirrored.load_state_dict(swapped)
    prev, cur, following = torch.randn(3, 1, 3, 5, 4, dtype=torch.double)
    assert_close("output", mirrored(following, cur, prev), layer(prev, cur, following))


def test_a_missing_neighbour_is_left_out():
    torch.manual_seed(3)
    layer = SALSTM(3, 4, 2, 3).double()
    prev, cur, following = torch.randn(3, 1, 3, 5, 4, dtype=torch.double)
    state = layer.forward_net.cell0(cur)
    attended = layer.forward_net.attention(state), layer.reverse_net([following, cur])
    assert_close("output", layer(None, cur, following), layer.conv(torch.cat(attended, 1)))
    assert not torch.allclose(layer(None, cur, following), layer(torch.zeros_like(prev), cur, following))


@pytest.mark.parametrize("module", ["A", "B"])
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_gradcheck(module, spatial_dims):
    torch.manual_seed(4)
    layer = SALSTM(2, 3, 2, 3, module=module, spatial_dims=spatial_dims).double()
    slices = [torch.randn(1, 2, *[3] * spatial_dims, dtype=torch.double, requires_grad=True) for _ in range(3)]
    torch.autograd.gradcheck(layer, slices)


def test_state_dict_round_trip_keeps_the_output():
    torch.manual_seed(5)
    layer, copy = SALSTM(3, 4, 2, 3, num_layers=2, module="B"), SALSTM(3, 4, 2, 3, num_layers=2, module="B")
    copy.load_state_dict(layer.state_dict())
    slices = torch.randn(3, 1, 3, 6, 6)
    assert torch.equal(layer(*slices), copy(*slices))


def test_no_state_outlives_a_forward():
    torch.manual_seed(6)
    layer = SALSTM(3, 4, 2, 3)
    slices, others = torch.randn(2, 3, 1, 3, 6, 6)
    before = layer(*slices)
    layer(*others)
    assert torch.equal(layer(*slices), before)


def test_keeps_a_channel_axis_of_one():
    layer = SALSTM(1, 1, 1, 3)
    assert layer(*torch.randn(3, 1, 1, 4, 4)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": "C"}, "module must be one of A, B, got 'C'"),
        ({"module": StateValue, "attention_size": 9}, "attention_size needs a module given by name"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"kernel_size": 0}, "kernel_size must be odd"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"hidden_channels": 0}, "hidden_channels must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3, got 4"),
        ({"attention_size": -1}, "attention_size must be positive, got -1"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SALSTM(**{"in_channels": 4, "hidden_channels": 4, "out_channels": 2, **arguments})


@pytest.mark.parametrize(
    ("prev", "cur", "message"),
    [
        ((1, 3, 5, 5), (1, 3, 5, 6), r"prev must have the shape of cur, got \(1, 3, 5, 5\) and \(1, 3, 5, 6\)"),
        ((1, 4, 5, 5), (1, 4, 5, 5), r"x must be \(B, 3, \*S\) with 2 spatial axes, got \(1, 4, 5, 5\)"),
        ((1, 3, 2, 5, 5), (1, 3, 2, 5, 5), r"x must be \(B, 3, \*S\) with 2 spatial axes"),
    ],
    ids=["other shape", "channels", "axes"],
)
def test_refuses_wrong_inputs(prev, cur, message):
    with pytest.raises(ValueError, match=message):
        SALSTM(3, 4, 2, 3)(torch.zeros(prev), torch.zeros(cur), torch.zeros(cur))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", ["A", "B"])
def test_large_inputs_stay_finite_under_autocast(module, dtype):
    torch.manual_seed(8)
    layer = SALSTM(8, 8, 4, 3, module=module)
    slices = (1e4 * torch.randn(3, 1, 8, 256, 256)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = layer(*slices)
    assert output.dtype == dtype
    inputs = {"slices": slices, **dict(layer.named_parameters())}
    for name, gradient in gradients(output, inputs).items():
        assert torch.isfinite(gradient).all(), name
    expected = layer(*slices.detach().float())
    assert_close("output", output.float(), expected, relative=1e-2)
