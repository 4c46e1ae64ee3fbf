"""Compares the authors' way of running their layer, slice by slice, with all slices at once.

    python benchmarks/authors_loop.py --out docs/results/authors_loop.json

Equal weights, equal outputs; the two take turns, and the ratio of medians is reported. Forward, and forward with
backward.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from nnunetv2_salstm.machine import describe_hardware, package_versions
from nnunetv2_salstm.nn import SALSTM, SliceSALSTM


def slice_by_slice(layer, volume):
    """Returns the layer's output for each slice with its neighbours, none beyond the ends."""
    slices = [None, *volume.unbind(2), None]
    return torch.stack([layer(*slices[z : z + 3]) for z in range(volume.shape[2])], dim=2)


def train(run, layer, volume):
    layer.zero_grad(set_to_none=True)
    run(volume).square().mean().backward()


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(works, rounds):
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for turn in range(rounds):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(works[name]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    loop, batched = medians.values()
    return {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "ratio": round(loop / batched, 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def measure(module, size, rounds):
    torch.manual_seed(0)
    layer = SALSTM(size[1], size[1], 4, kernel_size=5, module=module, attention_size=88 * 88)
    batched, volume = SliceSALSTM(layer), torch.randn(size)

    def loop(volume):
        return slice_by_slice(layer, volume)

    with torch.no_grad():
        expected, output = loop(volume), batched(volume)
        difference = ((output - expected).abs().max() / expected.abs().max()).item()
        assert difference < 1e-4, f"the outputs differ by {difference}"
        forward = compare({"slice by slice": lambda: loop(volume), "at once": lambda: batched(volume)}, rounds)
    training = compare(
        {
            "slice by slice": lambda: train(loop, layer, volume),
            "at once": lambda: train(batched, layer, volume),
        },
        rounds,
    )
    return {"largest_relative_difference": difference, "forward": forward, "forward_backward": training}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--edge", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = {
        "command": shlex.join(["python", "benchmarks/authors_loop.py", *sys.argv[1:]]),
        "volume": [1, arguments.channels, arguments.slices, arguments.edge, arguments.edge],
        "kernel_size": 5,
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
    }
    for module in ("A", "B"):
        result[module] = measure(module, result["volume"], arguments.rounds)
        print(module, json.dumps(result[module]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
