"""From which size on the CPU is faster with the slices of a volume in turn than with all at once.

    python benchmarks/in_turn.py --out docs/results/in_turn.json

Both ways through `SliceSALSTM` take turns over a range of slice sizes; the ratio of medians says how many times as long
all slices at once take. `LARGE_SLICE` in nn/slice_salstm.py follows from it.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.nn import SALSTM, SliceSALSTM

EDGES = (16, 32, 48, 64, 96, 128)


def predict(layer, way, volume):
    with torch.no_grad():
        way(volume)


def train(layer, way, volume):
    layer.zero_grad(set_to_none=True)
    way(volume).square().mean().backward()


def ratio(work, layer, volume, rounds):
    times = {layer.at_once: [], layer.in_turn: []}
    for turn in range(rounds + 1):  # the first is not counted
        for way in list(times)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            work(layer, way, volume)
            if turn:
                times[way].append(time.perf_counter() - start)
    at_once, in_turn = times.values()
    rounds_ = [a / b for a, b in zip(at_once, in_turn, strict=True)]
    return {
        "ratio": round(statistics.median(at_once) / statistics.median(in_turn), 2),
        "range": [round(min(rounds_), 2), round(max(rounds_), 2)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    for channels, kernel_size, depth in ((8, 3, 20), (24, 3, 20), (64, 5, 10)):
        for edge in EDGES:
            torch.manual_seed(0)
            layer = SliceSALSTM(SALSTM(channels, channels, channels, kernel_size))
            volume = torch.randn(1, channels, depth, edge, edge)
            rows.append({
                "volume": list(volume.shape),
                "kernel_size": kernel_size,
                "gates_of_a_slice": 8 * channels * edge * edge,
                "predicting": ratio(predict, layer, volume, arguments.rounds),
                "training": ratio(train, layer, volume, arguments.rounds),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/in_turn.py", *sys.argv[1:]]),
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
