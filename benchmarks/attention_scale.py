"""Measures at initialisation what scales of the attention's logits do on the grids that nnU-Net plans lead to.

    python benchmarks/attention_scale.py --out docs/results/attention_scale.json

For every grid and scale: `distinctness`, the standard deviation of Y over channels relative to that of V (1: the
channels keep apart, 0: all are equal), and `diagonal`, the mean weight of a channel on itself (1 / channels: uniform,
1: the identity). Inputs are normalised noise, white and smoothed over 5 x 5 pixels. "cosine" normalises Q and K over
the pixels and multiplies by a temperature of 10 instead of scaling their product.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional as F

from nnunetv2_salstm.nn import ConvLSTMCell, StateAttention

CHANNELS = 24
GRIDS = {
    "Hippocampus 3d, stage 0": (14, 10),
    "Hippocampus 3d, bottleneck": (7, 5),
    "ACDC 3d, stage 0": (64, 56),
    "ACDC 3d, bottleneck": (8, 7),
    "BTCV 3d, bottleneck": (6, 6),
    "BraTS 3d, bottleneck": (4, 4),
    "ISIC 2d, stage 0": (128, 128),
    "ISIC 2d, bottleneck": (4, 4),
}


class CosineAttention(StateAttention):
    def matrix(self, query, key):
        return (10 * F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2)).softmax(dim=-1)


SCALES = {
    "1/sqrt(N)": StateAttention(CHANNELS),
    "1/sqrt(7744)": StateAttention(CHANNELS, attention_size=7744),
    **{f"tau {tau}": StateAttention(CHANNELS, tau=tau) for tau in (57, 190, 570, 1900)},
    "cosine": CosineAttention(CHANNELS),
}


def noise(grid, smooth):
    x = torch.randn(4, CHANNELS, *grid)
    if smooth:
        x = F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    return F.instance_norm(x)


@torch.no_grad()
def measure(attention, grid, smooth):
    torch.manual_seed(0)
    cell = ConvLSTMCell(CHANNELS, CHANNELS, kernel_size=3)
    state = cell(noise(grid, smooth), cell(noise(grid, smooth)))
    y, v = attention(state), state.h
    query, key = (state.c + state.f).flatten(2), (state.g + state.h).flatten(2)
    diagonal = attention.matrix(query, key).diagonal(dim1=-2, dim2=-1).mean()
    distinctness = y.std(dim=1).square().mean().sqrt() / v.std(dim=1).square().mean().sqrt()
    return {"distinctness": round(distinctness.item(), 3), "diagonal": round(diagonal.item(), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = {
        "command": "python benchmarks/attention_scale.py --out docs/results/attention_scale.json",
        "versions": {name: version(name) for name in ("nnunetv2-salstm", "torch")},
        "channels": CHANNELS,
        "grids": {
            name: {
                kind: {scale: measure(attention, grid, kind == "smooth") for scale, attention in SCALES.items()}
                for kind in ("white", "smooth")
            }
            for name, grid in GRIDS.items()
        },
    }
    for name, kinds in result["grids"].items():
        for kind, scales in kinds.items():
            row = "  ".join(f"{scale} {m['distinctness']:.2f}/{m['diagonal']:.2f}" for scale, m in scales.items())
            print(f"{name} {GRIDS[name]} {kind}: {row}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
