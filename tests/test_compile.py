"""torch.compile: one graph where the stock network is one, forward and backward."""

import math
import shutil

import pytest
import torch
from presets import as_residual_encoder, build, tiny
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_salstm.nn import slice_salstm

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
    ("plan", "module", "large_slice"),
    [
        pytest.param(tiny(3), "A", math.inf, id="3d-A"),
        pytest.param(tiny(2), "B", math.inf, id="2d-B"),
        pytest.param(tiny(2), "A", math.inf, id="2d-A", marks=pytest.mark.grid),
        pytest.param(tiny(3), "B", math.inf, id="3d-B", marks=pytest.mark.grid),
        pytest.param(tiny(3), "B", 0, id="3d-B slices in turn"),
        pytest.param(as_residual_encoder(tiny(3)), "A", math.inf, id="residual encoder-A"),
    ],
)
@pytest.mark.slow
def test_no_graph_break_forward_and_backward(plan, module, large_slice, monkeypatch):
    monkeypatch.setattr(slice_salstm, "LARGE_SLICE", large_slice)
    network = network_of(plan, module)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    close(step(network, compiled, x), step(network, network, x))
    network.eval()
    with torch.inference_mode():
        close(compiled(x), network(x))


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("module", ["A", "B"])
def test_no_more_recompilations_than_the_stock_network(module):
    plan = tiny(3)
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    stock = graphs(network_of(plan), x)
    torch._dynamo.reset()
    assert graphs(network_of(plan, module), x) == stock == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_the_default_backend_computes_the_same():
    plan = tiny(3)
    network = network_of(plan, "A")
    x = torch.randn(2, 2, *plan["patch_size"], dtype=torch.double)
    compiled = torch.compile(network, fullgraph=True)
    close(step(network, compiled, x), step(network, network, x))
