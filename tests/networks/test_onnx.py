"""The networks as ONNX graphs give what PyTorch gives."""

import json
import shutil

import pytest
import torch
from model_folders import programs_on_a_page
from places import DATA
from presets import as_residual_encoder, build, tiny
from torch import nn

from nnunetv2_salstm.nn import SALSTM, FrameBlock, SALSTMBlock, SliceSALSTM

# Relative to the largest output: float32, summed in another order.
LARGEST_DIFFERENCE = 1e-5

# A warning of nnU-Net's own imports.


def randomise(block):
    """As if trained: at the start a block adds nothing."""
    nn.init.normal_(block.layer.output_convolution.weight, std=0.3)
    nn.init.normal_(block.layer.output_convolution.bias)
    return block


def export(network, example, file):
    pytest.importorskip("onnxscript", reason="torch.onnx needs it")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.onnx.export(network, (example,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return lambda x: torch.from_numpy(session.run(None, {image.name: x.numpy()})[0])


def assert_close(output, expected):
    assert output.shape == expected.shape
    assert expected.std() > 0.1
    assert (output - expected).abs().max() < LARGEST_DIFFERENCE * expected.abs().max()


def assert_equal_outputs(graph, network, x):
    with torch.inference_mode():
        assert_close(graph(x), network(x.clone()))


@pytest.mark.parametrize("module", ["A", "B"])
@pytest.mark.parametrize("axes", [pytest.param(2, marks=pytest.mark.nightly), 3])
def test_a_batch_of_any_size_can_be_exported(axes, module):
    """Every length read as a number, and every comparison of one, would fix the batch to that of the example."""
    torch.manual_seed(0)
    sequence = {2: "repeat", 3: "slices"}[axes]
    layer = SliceSALSTM(SALSTM(4, 4, 8, 3, module=module), sequence=sequence)
    block = randomise(SALSTMBlock(8, layer, stride=(2,) * axes)).eval()
    assert_any_batch_is_exported(block, (8, *[8] * axes))


def test_any_number_of_triples_of_frames_can_be_exported():
    torch.manual_seed(0)
    block = randomise(FrameBlock(8, SliceSALSTM(SALSTM(4, 4, 8, 3)), stride=(2, 2))).eval()
    assert_any_batch_is_exported(nn.Sequential(Triples(), block), (24, 8, 8))


class Triples(nn.Module):
    def forward(self, x):
        return torch.cat(x.chunk(3, dim=1))


def assert_any_batch_is_exported(network, size):
    exported = torch.export.export(network, (torch.randn(2, *size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (1, 2, 5):
        x = torch.randn(batch, *size)
        torch.testing.assert_close(exported.module()(x), network(x))


TRAINED = [path for path in sorted(DATA.glob("nnUNetTrainer*.pth")) if "25d" not in path.name]


@pytest.mark.nightly
@pytest.mark.parametrize("file", TRAINED, ids=lambda file: file.stem)
def test_the_how_to_exports_a_trained_model(file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    checkpoint = torch.load(file, weights_only=False)
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(checkpoint["init_args"]["plans"]))
    (model / "dataset.json").write_text(json.dumps(checkpoint["init_args"]["dataset_json"]))
    shutil.copy(file, model / "fold_0" / "checkpoint_final.pth")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for program in programs_on_a_page("export-onnx.md", model):
        exec(program, namespace)
    assert namespace["logits"].shape[0] == 3
    assert float(capsys.readouterr().out.rpartition("largest logit: ")[2]) < LARGEST_DIFFERENCE
    # And what the network gave when the checkpoint was written.
    golden = checkpoint["golden"]
    (logits,) = namespace["session"].run(None, {"image": golden["input"].numpy()})
    assert_close(torch.from_numpy(logits), golden["output"])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("dims", "salstm", "channels"),
    [(2, {"module": "A"}, 2), (3, {"module": "B"}, 2), (2, {"module": "B", "sequence": "frames"}, 6)],
    ids=["2D-A", "3D-B", "2.5D-B"],
)
def test_residual_encoders_equal_pytorch(dims, salstm, channels, tmp_path):
    plan = as_residual_encoder(tiny(dims, strides=[[2] * dims]))
    network = build(plan, salstm, deep_supervision=False, input_channels=channels).eval()
    for block in network.salstm.values():
        randomise(block)
    x = torch.randn(2, 1, channels, *plan["patch_size"])
    graph = export(network, x[0], tmp_path / "network.onnx")
    assert_equal_outputs(graph, network, x[1])


@pytest.mark.nightly
def test_the_end_slice_again_beyond_the_ends(tmp_path):
    torch.manual_seed(0)
    layer = SliceSALSTM(SALSTM(4, 4, 3, 3, module="B"), boundary="replicate").eval()
    x = torch.randn(2, 1, 4, 3, 6, 6)
    assert_equal_outputs(export(layer, x[0], tmp_path / "layer.onnx"), layer, x[1])
