"""torch.compile: one graph where the stock network is one, forward and backward."""

import shutil

import pytest
import torch
from presets import as_residual_encoder, build, tiny
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_salstm.networks import add_salstm

# torch's own, while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def network_of(plan, module=None, sequence="auto"):
    # In float64: rounding, which norms on small grids enlarge, must not hide a difference.
    values = module and {"module": module, "sequence": sequence}
    network = build(plan, values, input_channels=6 if sequence == "frames" else 2).double()
    for block in getattr(network, "salstm", {}).values():
        torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    return network


def step(network, compiled, x):
    """Returns the outputs and gradients of a training step."""
    network.zero_grad(set_to_none=True)
    outputs = compiled(x)
    sum(output.square().mean() for output in outputs).backward()
    return [*outputs, *(parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None)]


def close(compiled, eager):
    assert len(compiled) == len(eager)
    # Absolute: the gradient of a bias in front of a norm is zero but for rounding.
    errors = [(ours - theirs).abs().max().item() for ours, theirs in zip(compiled, eager, strict=True)]
    assert max(errors) < 1e-10, errors


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("plan", "module"),
    [
        pytest.param(tiny(3), "A", id="3d-A"),
        pytest.param(tiny(2), "B", id="2d-B"),
        pytest.param(tiny(2), "A", id="2d-A", marks=pytest.mark.nightly),
        pytest.param(tiny(3), "B", id="3d-B", marks=pytest.mark.nightly),
        pytest.param(as_residual_encoder(tiny(3)), "A", id="residual encoder-A"),
    ],
)
@pytest.mark.nightly
def test_no_graph_break_forward_and_backward(plan, module):
    network = network_of(plan, module)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    close(step(network, compiled, x), step(network, network, x))
    network.eval()
    with torch.inference_mode():
        close(compiled(x), network(x))


def extended(plan, module):
    network = add_salstm(network_of(plan), {"module": module})
    for block in network.salstm.values():
        torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    return network


@pytest.mark.parametrize(
    "make", [pytest.param(network_of, id="ours"), pytest.param(extended, id="extended", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("autocast", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["", "bfloat16"])
def test_blocks_are_compiled_after_a_stock_network_was(make, autocast):
    """A graph of the stock network, of the same encoder, must not be taken for one with blocks."""
    plan = tiny(2, patch=[16, 8], strides=[[2, 2]])
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    outputs, networks = [], [network_of(plan), make(plan, "A")]
    for network in networks:
        if autocast:
            network, x = network.float(), x.float()
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, expected = compiled(x), network(x)
        assert torch.allclose(found[0], expected[0], atol=0.05 if autocast else 1e-10)
        found[0].float().square().mean().backward()
        outputs.append(found[0])
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if name.startswith("salstm")}
    assert gradients
    assert all(gradient is not None for gradient in gradients.values())
    assert network.salstm["0"].layer.layer.forward_net.cell0.conv.weight.grad.abs().max() > 0


@pytest.mark.nightly
@pytest.mark.parametrize("make", [network_of, extended], ids=["ours", "extended"])
def test_exported_programs_have_the_blocks(make):
    plan = tiny(2, patch=[16, 8], strides=[[2, 2]])
    stock, network = network_of(plan), make(plan, "B")
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    torch.export.export(stock, (x,))
    exported = torch.export.export(network, (x,)).module()
    assert torch.allclose(exported(x)[0], network(x)[0], atol=1e-10)
    assert not torch.allclose(exported(x)[0], stock(x)[0], atol=0.01)
    assert set(dict(network.named_parameters())) == set(dict(exported.named_parameters()))


@pytest.mark.nightly
def test_no_graph_break_with_frames():
    plan = tiny(2)
    network = network_of(plan, "A", "frames")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 6, *plan["patch_size"], dtype=torch.double)
    close(step(network, compiled, x), step(network, network, x))


def graphs(network, x):
    """Returns how many graphs are compiled until after training, until after validation, and after prediction."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter)
    counts = []
    for _ in range(2):
        step(network, compiled, x)
    counts.append(counter.frame_count)
    network.eval()
    with torch.no_grad():
        for _ in range(2):
            compiled(x)
        counts.append(counter.frame_count)
        network.decoder.deep_supervision = False
        for _ in range(2):
            compiled(x)
        counts.append(counter.frame_count)
    return counts


@pytest.mark.nightly
@pytest.mark.parametrize("module", ["A", "B"])
def test_no_more_recompilations_than_the_stock_network(module):
    plan = tiny(3)
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    stock = graphs(network_of(plan), x)
    torch._dynamo.reset()
    assert graphs(network_of(plan, module), x) == stock == [1, 2, 3]


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_the_default_backend_computes_the_same():
    plan = tiny(3)
    network = network_of(plan, "A")
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    compiled = torch.compile(network, fullgraph=True)
    close(step(network, compiled, x), step(network, network, x))
