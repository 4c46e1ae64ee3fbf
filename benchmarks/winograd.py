"""From which size on the CPU convolves faster with fewer multiplications: nn/winograd.py against PyTorch's convolution.

    python benchmarks/winograd.py --out docs/results/winograd.json

Gates of one direction from C channels, (1, C, H, W) to (1, 4C, H, W), kernel 5, both ways in turns. The ratio of
medians says how many times as long PyTorch's way takes; rounding is the root mean square error relative to the
output's. The conditions of `is_faster` follow from it.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import conv2d

from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.nn.winograd import KERNEL_ROWS, convolve_by_tiles, is_faster


def predict(convolve, x, weight, bias):
    with torch.no_grad():
        convolve(x, weight, bias)


def train(convolve, x, weight, bias):
    x, weight, bias = (tensor.detach().requires_grad_() for tensor in (x, weight, bias))
    convolve(x, weight, bias).square().sum().backward()


def plainly(x, weight, bias):
    return conv2d(x, weight, bias, padding=KERNEL_ROWS // 2)


def ratio(work, tensors, rounds):
    times = {plainly: [], convolve_by_tiles: []}
    for turn in range(rounds + 1):  # the first is not counted
        for way in list(times)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            work(way, *tensors)
            if turn:
                times[way].append(time.perf_counter() - start)
    plain, tiled = times.values()
    rounds_ = [a / b for a, b in zip(plain, tiled, strict=True)]
    return {
        "ratio": round(statistics.median(plain) / statistics.median(tiled), 2),
        "range": [round(min(rounds_), 2), round(max(rounds_), 2)],
    }


def rounding(tensors):
    exact = plainly(*(tensor.double() for tensor in tensors))
    size = exact.square().mean().sqrt()
    errors = {"plain": plainly(*tensors) - exact, "tiled": convolve_by_tiles(*tensors) - exact}
    return {name: float(f"{(error.square().mean().sqrt() / size).item():.2g}") for name, error in errors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    for channels in (16, 24, 32, 64, 128):
        for edge in (16, 32, 64, 128, 224):
            torch.manual_seed(0)
            layer = torch.nn.Conv2d(channels, 4 * channels, KERNEL_ROWS)
            x = torch.randn(1, channels, edge, edge).contiguous(memory_format=torch.channels_last)
            tensors = x, layer.weight.detach(), layer.bias.detach()
            rows.append({
                "channels": channels,
                "edge": edge,
                "is_faster": is_faster(x, layer.weight),
                "predicting": ratio(predict, tensors, arguments.rounds),
                "training": ratio(train, tensors, arguments.rounds),
                "rounding": rounding(tensors),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/winograd.py", *sys.argv[1:]]),
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
