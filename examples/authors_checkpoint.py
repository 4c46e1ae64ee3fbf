"""A checkpoint of the authors' code in our `SALSTM` layer, with the same numbers.

    python examples/authors_checkpoint.py                   # a recorded run of their code, from tests/data
    python examples/authors_checkpoint.py CHECKPOINT.pth    # a file of yours, from torch.save(model.state_dict(), ...)

The sizes of the layer are read off the weights. One number is not in a checkpoint and has to be known: the attention
size a of the scale 1 / sqrt(a), 88 * 88 in the published ACDC training (`--attention-size`). The recorded run has
inputs and outputs of the authors' layer, with which ours is compared. Both ways end with all slices of a volume at
once, which the authors take one by one; random features stand for those of an encoder there.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunetv2_salstm.nn import SALSTM, SliceSALSTM

RECORDED = Path(__file__).resolve().parents[1] / "tests" / "data" / "B_h8_k5.npz"


def load_layer(state_dict: Mapping[str, Tensor], attention_size: float) -> SALSTM:
    """Returns the layer that a state dict of the authors' code is for, with its weights.

    Raises:
        ValueError: if the state dict has no such layer.
    """
    weights = {key.removeprefix("module.").removeprefix("lstmlayer."): value for key, value in state_dict.items()}
    gates = [value for key, value in weights.items() if key.startswith("forward_net.cell") and key.endswith(".weight")]
    if not gates or "conv.bias" not in weights:
        raise ValueError(f"state_dict must hold the authors' layer, got {', '.join(list(state_dict)[:3]) or 'no key'}")
    hidden_channels = len(gates[0]) // 4  # gates i, f, o, g
    layer = SALSTM(
        in_channels=gates[0].shape[1] - hidden_channels,
        hidden_channels=hidden_channels,
        out_channels=len(weights["conv.bias"]),
        kernel_size=gates[0].shape[2],
        num_layers=len(gates),
        module="B" if "forward_net.attention.q_matrix.weight" in weights else "A",
        attention_size=attention_size,
    ).to(gates[0].dtype)
    ignored = layer.load_authors_state_dict(state_dict)
    print(f"loaded {len(state_dict) - ignored} tensors, left out {ignored} of the authors' encoder")
    return layer


def load_recorded_run() -> SALSTM:
    """Returns the layer of the recorded run, after comparing its output with that of the authors' layer."""
    with np.load(RECORDED) as file:
        attention_size = json.loads(str(file["meta"]))["attention_size"]
        recorded = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
    weights = {name.removeprefix("state/"): value for name, value in recorded.items() if name.startswith("state/")}
    layer = load_layer(weights, attention_size)
    output = layer(recorded["in/prev"], recorded["in/cur"], recorded["in/next"])
    print(f"largest difference to the authors' output: {(output - recorded['out']).abs().max().item():.1e}")
    torch.testing.assert_close(output, recorded["out"], rtol=1e-10, atol=1e-12)
    return layer


def main(checkpoint: Path | None = None, attention_size: float = 88 * 88) -> SALSTM:
    """Loads a checkpoint, or else the recorded run, applies the layer to a volume, and returns the layer."""
    if checkpoint is None:
        layer = load_recorded_run()
    else:
        layer = load_layer(torch.load(checkpoint, map_location="cpu", weights_only=True), attention_size)

    features = torch.randn(1, layer.in_channels, 6, 32, 32, dtype=layer.conv.weight.dtype)  # (B, C, D, H, W)
    with torch.no_grad():
        at_once = SliceSALSTM(layer)(features)
        slices = [None, *features.unbind(2), None]
        one_by_one = torch.stack([layer(*slices[z : z + 3]) for z in range(features.shape[2])], dim=2)
    torch.testing.assert_close(at_once, one_by_one)
    print(f"all slices of a volume at once: {tuple(features.shape)} to {tuple(at_once.shape)}, equal to one by one")
    return layer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a state dict; without it, the recorded run")
    parser.add_argument("--attention-size", type=float, default=88 * 88, help="a of the scale, default %(default)s")
    main(**vars(parser.parse_args()))
