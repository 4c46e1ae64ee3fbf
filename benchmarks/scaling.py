"""Measures how a block's time and memory grow with slices, in-plane size and batch, and draws it.

    python benchmarks/scaling.py --out docs/results/scaling.json --figure docs/figures/scaling.svg

Each axis doubles from a base volume while the others stay. A point is forward and backward of one block as it sits at
full resolution (32 channels, cells of 1 x 4 x 4), the median of interleaved rounds, in float32 on the CPU. Memory is
what the block keeps for the backward pass, without its input and output.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.nn import SALSTM, SALSTMBlock, SliceSALSTM, StateAttention

CHANNELS, HIDDEN = 32, 8
BASE = {"batch": 1, "slices": 8, "edge": 96}
AXES = {
    "slices": [{"slices": slices} for slices in (4, 8, 16, 32, 64)],
    "pixels in plane": [{"edge": edge} for edge in (48, 96, 136, 192, 272)],
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8)],
}


def make_block():
    torch.manual_seed(0)
    layer = SALSTM(HIDDEN, HIDDEN, CHANNELS, 3, module=lambda hidden: StateAttention(hidden, tau=570))
    block = SALSTMBlock(CHANNELS, SliceSALSTM(layer), (1, 4, 4), nn.InstanceNorm3d(HIDDEN, affine=True))
    nn.init.normal_(layer.conv.weight, std=0.1)
    return block


def shape_of(change):
    size = {**BASE, **change}
    return size["batch"], CHANNELS, size["slices"], size["edge"], size["edge"]


def step(block, x):
    start = time.perf_counter()
    block.zero_grad(set_to_none=True)
    block(x).sum().backward()
    return time.perf_counter() - start


def kept_bytes(block, x):
    """Returns the bytes of what autograd keeps, each storage once, parameters and input not counted."""
    known = {t.untyped_storage().data_ptr() for t in (x, *block.parameters())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(x)
    kept.pop(output.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--figure", type=Path, help="SVG file to draw")
    arguments = parser.parse_args()
    block = make_block()
    points = {axis: [shape_of(change) for change in changes] for axis, changes in AXES.items()}
    shapes = sorted({shape for shapes in points.values() for shape in shapes}, key=np.prod)
    times = {shape: [] for shape in shapes}
    for turn in range(arguments.rounds + 1):
        for shape in shapes:
            elapsed = step(block, torch.randn(shape, requires_grad=True))
            if turn:  # the first round warms up
                times[shape].append(elapsed)
    result = {
        "command": "python benchmarks/scaling.py",
        "cell": list(block.stride),
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
        "axes": {},
    }
    for axis, chosen in points.items():
        rows = [
            {
                "shape": list(shape),
                "voxels": int(np.prod(shape[2:])) * shape[0],
                "seconds": round(statistics.median(times[shape]), 5),
                "kept_megabytes": round(kept_bytes(block, torch.randn(shape, requires_grad=True)) / 1e6, 3),
            }
            for shape in chosen
        ]
        voxels = np.log([row["voxels"] for row in rows])
        exponents = {
            name: round(float(np.polyfit(voxels, np.log([row[name] for row in rows]), 1)[0]), 2)
            for name in ("seconds", "kept_megabytes")
        }
        result["axes"][axis] = {"points": rows, "exponent": exponents}
        print(axis, exponents)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.figure:
        draw(result).savefig(arguments.figure, metadata={"Date": None})


def draw(result):
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 2),
        (("seconds", "forward and backward, s"), ("kept_megabytes", "kept for backward, MB")),
        strict=True,
    ):
        for axis, values in result["axes"].items():
            voxels = [row["voxels"] for row in values["points"]]
            measured = [row[name] for row in values["points"]]
            axes.loglog(voxels, measured, "o-", label=f"{axis}: exponent {values['exponent'][name]:.2f}")
        axes.set_xlabel("voxels of the feature map")
        axes.set_title(label, loc="left")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
