"""Whole networks under awkward numbers: finite wherever the stock network is."""

from contextlib import nullcontext

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from presets import as_residual_encoder, build, tiny

THIN = tiny(patch=[1, 24, 16], strides=[[1, 2, 2], [1, 2, 2]])
THIN_IN_PLANE = tiny(patch=[8, 4, 16], strides=[[1, 2, 2], [2, 2, 2]])
RESIDUAL = as_residual_encoder(tiny(2))
RESIDUAL["architecture"]["arch_kwargs"]["n_blocks_per_stage"] = 1
FILLS = {
    "zero": lambda size: torch.zeros(size),
    "constant": lambda size: torch.full(size, 5.0),
    "constant 1e4": lambda size: torch.full(size, 1e4),
    "one voxel": lambda size: torch.zeros(size).index_fill_(-1, torch.tensor([3]), 1e4),
    "large": lambda size: 1e4 * torch.randn(size).clamp(-3, 3),
}


def values(network, x, autocast):
    """Returns whether outputs and each parameter's gradient are finite."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        outputs = network(x)
    sum(output.float().square().mean() for output in outputs).backward()
    finite = {name: bool(torch.isfinite(p.grad).all()) for name, p in network.named_parameters()}
    finite["output"] = all(bool(torch.isfinite(output).all()) for output in outputs)
    return finite


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("module", ["A", "B", pytest.param("conv", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("plan", "frames"),
    [(tiny(3), False), (tiny(2), False), (tiny(2), True), (THIN, False), (THIN_IN_PLANE, False)],
    ids=["3D", "2D", "2.5D", "one slice", "one row at the bottleneck"],
)
def test_finite_where_the_stock_network_is(plan, frames, module, fill, autocast):
    channels = 6 if frames else 2
    stock = build(plan)
    ours = build(plan, {"module": module, **({"sequence": "frames"} if frames else {})}, input_channels=channels)
    for block in ours.salstm.values():
        torch.nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    x = FILLS[fill]((2, channels, *plan["patch_size"]))
    expected = values(stock, x[:, :2], autocast)
    found = values(ours, x, autocast)
    assert expected["output"]  # else this says nothing
    wrong = [name for name, finite in found.items() if not finite and expected.get(name, all(expected.values()))]
    assert wrong == []


def train(network, plan, learning_rate, steps=200):
    """Trains as nnU-Net does (SGD with Nesterov momentum, clipping, Dice and cross entropy); returns the losses."""
    loss_of = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.99, weight_decay=3e-5, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        x = torch.randn(2, 2, *plan["patch_size"], generator=generator)
        target = (x[:, :1] > 0.5).long() + (x[:, 1:] > 1).long()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(network(x), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("plan", "module"),
    [
        pytest.param(tiny(2), "A", id="2D A"),
        pytest.param(tiny(2), "B", id="2D B"),
        # B computes all that A does.
        pytest.param(tiny(3), "A", id="3D A", marks=pytest.mark.nightly),
        pytest.param(tiny(3), "B", id="3D B"),
        pytest.param(RESIDUAL, "B", id="residual encoder 2D B"),
    ],
)
def test_ten_times_the_learning_rate_under_bfloat16(plan, module):
    stock = train(build(plan, deep_supervision=False), plan, learning_rate=0.1)
    ours = train(build(plan, {"module": module}, deep_supervision=False), plan, learning_rate=0.1)
    assert torch.isfinite(stock).all(), "the stock network fails itself: this says nothing"
    assert torch.isfinite(ours).all()
    assert ours[-20:].mean() < ours[:5].mean()  # and it learns
