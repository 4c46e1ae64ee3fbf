"""The examples on other people's networks run, and show what they say."""

import importlib.util
import runpy
import sys

import numpy as np
import pytest
import torch
from closeness import assert_close
from golden import LAYERS, load_layer
from places import ROOT
from torch import nn

from nnunetv2_salstm.networks import add_salstm
from nnunetv2_salstm.nn import SALSTM

EXAMPLES = ROOT / "examples"


def load_example(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def without_blocks(network):
    return {name: value for name, value in network.state_dict().items() if not name.startswith("salstm.")}


def assert_all_blocks_learn(network, blocks, x):
    """Each block's weights but for the last convolution wait for that one, which starts at zero."""
    for _ in range(2):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    # The normalisation takes the bias of the convolution before it away again.
    gradients = {name: p.grad for name, p in blocks.named_parameters() if not name.endswith("reduce.bias")}
    assert gradients
    idle = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert idle == []


def test_all_are_tested_here():
    tested = {"authors_checkpoint", "monai_swin_unetr", "monai_unet", "plain_pytorch_unet"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_plain_pytorch_unet(capsys):
    example = load_example("plain_pytorch_unet")
    losses = example.main()
    assert losses[-1] < losses[0] / 2
    printed = capsys.readouterr().out
    assert "blocks at stages: 0, 1, 2\n" in printed
    assert "output unchanged before training: True\n" in printed
    assert f"loss {losses[-1]:.3f}\n" in printed

    torch.manual_seed(0)
    images, _ = example.balls_in_noise(cases=2)
    stock, extended = example.UNet(), add_salstm(example.UNet(), {"module": "B"})
    extended.load_state_dict({**extended.state_dict(), **stock.state_dict()})
    assert torch.equal(extended(images), stock(images))
    assert without_blocks(extended).keys() == stock.state_dict().keys()
    assert_all_blocks_learn(extended, extended.salstm, images)


@pytest.mark.parametrize("name", ["conv_op", "output_channels", "strides", "norm_op", "norm_op_kwargs"])
def test_the_plain_unet_gives_no_more_than_add_salstm_needs(name):
    network = load_example("plain_pytorch_unet").UNet()
    delattr(network.encoder, name)
    with pytest.raises(ValueError, match=rf"it has no {name}: set them on it; help\(add_salstm\) says what they are"):
        add_salstm(network)


@pytest.mark.nightly
def test_monai_unet(capsys):
    pytest.importorskip("monai", reason="the example is on a network of MONAI")
    example = load_example("monai_unet")
    losses = example.main()
    assert losses[-1] < losses[0] - 0.2
    printed = capsys.readouterr().out
    assert "all of MONAI's weights have a place: True\n" in printed
    assert "output equals the stock network's: True\n" in printed

    torch.manual_seed(0)
    images, labels = example.balls_in_noise(cases=2)
    assert images.shape == labels.shape == (2, 1, 32, 32, 32)
    assert set(labels.unique().tolist()) == {0, 1}
    stock = example.BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=example.FEATURES)
    network = example.SALSTMBasicUNet(in_channels=1, out_channels=2)
    network.load_state_dict({**network.state_dict(), **stock.state_dict()})
    assert torch.equal(network(images), stock(images))
    assert without_blocks(network).keys() == stock.state_dict().keys()
    assert len(network.salstm) == 5
    assert_all_blocks_learn(network, network.salstm, images)


@pytest.mark.nightly
@pytest.mark.parametrize("axes", [2, 3])
def test_monai_swin_unetr(axes, capsys):
    pytest.importorskip("monai", reason="the example is on a network of MONAI")
    example = load_example("monai_swin_unetr")
    example.main()
    printed = capsys.readouterr().out
    assert "blocks at stages: 0, 1, 2, 3, 4, 5\n" in printed
    assert "output equals SwinUNETR's: True\n" in printed

    torch.manual_seed(0)
    stock = example.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=axes)
    network = add_salstm(example.SwinUNETRInTwo(stock), {"module": "A"})
    images = torch.rand(1, 1, *[64] * axes)
    assert torch.equal(network(images), stock(images))
    shared = {id(p) for p in stock.parameters()}
    assert {id(p) for name, p in network.named_parameters() if not name.startswith("salstm.")} == shared
    assert_all_blocks_learn(network, network.salstm, images)


def test_authors_checkpoint_as_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["authors_checkpoint.py"])
    runpy.run_path(str(EXAMPLES / "authors_checkpoint.py"), run_name="__main__")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "loaded 18 tensors, left out 0 of the authors' encoder"
    assert float(second.rpartition(": ")[2]) < 1e-12
    assert "(1, 8, 6, 32, 32) to (1, 4, 6, 32, 32)" in third


def test_a_recorded_run_that_differs_is_noticed(monkeypatch, tmp_path):
    example = load_example("authors_checkpoint")
    with np.load(example.RECORDED) as file:
        values = {name: file[name] for name in file.files}
    values["out"] = values["out"] + 1e-6
    np.savez(tmp_path / "changed.npz", **values)
    monkeypatch.setattr(example, "RECORDED", tmp_path / "changed.npz")
    with pytest.raises(AssertionError, match="not close"):
        example.main()


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_authors_checkpoint_of_a_file(path, tmp_path, capsys):
    expected, golden = load_layer(path)
    state = {f"module.lstmlayer.{k.removeprefix('state/')}": v for k, v in golden.items() if k.startswith("state/")}
    state["module.encoder.conv.bias"] = torch.ones(1)
    torch.save(state, tmp_path / "checkpoint.pth")
    attention_size = expected.forward_net.attention.attention_size
    layer = load_example("authors_checkpoint").main(tmp_path / "checkpoint.pth", attention_size)
    assert "left out 1 of" in capsys.readouterr().out
    assert isinstance(layer, SALSTM)
    assert_close("out", layer(*(golden[f"in/{name}"] for name in ("prev", "cur", "next"))), golden["out"])


def test_authors_checkpoint_refuses_other_files(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="state_dict must hold the authors' layer, got weight, bias"):
        load_example("authors_checkpoint").main(tmp_path / "other.pth")
