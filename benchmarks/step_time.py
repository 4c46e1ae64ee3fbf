"""Times training steps and inference of the stock network and ours on a configuration of nnU-Net plans.

    python benchmarks/step_time.py PLANS.json 3d_fullres --out docs/results/NAME.json

All networks run in one process, in rotating order, so that the machine's moods hit them alike; ratios of medians to
the stock network are reported. Synthetic data; a training step is forward, loss over all deep supervision outputs,
backward.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunetv2_salstm.plans import add_to_plans

ARMS = {"stock": None, "A": {"module": "A"}, "B": {"module": "B"}, "conv": {"module": "conv"}}


def build(plans, configuration, salstm):
    if salstm is not None:
        plans = add_to_plans(plans, configuration, salstm)
    architecture = plans["configurations"][configuration]["architecture"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=1,
        output_channels=3,
        deep_supervision=True,
    )


def train_step(network, x):
    network.zero_grad(set_to_none=True)
    sum(output.square().mean() for output in network(x)).backward()


@torch.no_grad()
def infer(network, x):
    network(x)


def seconds(work, network, x, device):
    start = time.perf_counter()
    work(network, x)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(work, networks, x, rounds, device):
    times = {name: [] for name in networks}
    names = list(networks)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            elapsed = seconds(work, networks[name], x, device)
            if turn:  # the first round warms up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "stock_seconds": round(medians["stock"], 4),
        "ratio_of_medians": {name: round(value / medians["stock"], 3) for name, value in medians.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path)
    parser.add_argument("configuration")
    parser.add_argument("--batch-size", type=int, help="default: the plan's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    plans, device = json.loads(arguments.plans.read_text()), torch.device(arguments.device)
    plan = plans["configurations"][arguments.configuration]
    networks = {name: build(plans, arguments.configuration, salstm).to(device) for name, salstm in ARMS.items()}
    for network in networks.values():
        for block in getattr(network, "salstm", nn.ModuleDict()).values():
            # At their start the blocks' gradients are zero, and zeros can be fast.
            nn.init.normal_(block.layer.output_convolution.weight, std=0.1)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    batch = arguments.batch_size or plan["batch_size"]
    x = torch.randn(batch, 1, *plan["patch_size"], device=device)
    result = {
        "command": shlex.join(["python", "benchmarks/step_time.py", arguments.plans.name, *sys.argv[2:]]),
        "dataset": plans["dataset_name"],
        "configuration": arguments.configuration,
        "patch_size": plan["patch_size"],
        "batch_size": batch,
        "rounds": arguments.rounds,
        "hardware": f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
        if device.type == "cpu"
        else torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("nnunetv2-salstm", "nnunetv2", "torch")},
        "parameters": {name: round(count / parameters["stock"], 3) for name, count in parameters.items()},
        "training_step": ratios(train_step, networks, x, arguments.rounds, device),
        "inference": ratios(infer, networks, x, arguments.rounds, device),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
