"""Counts the parameters of our networks relative to the stock ones for configurations of nnU-Net plans.

python benchmarks/parameters.py PLANS.json [PLANS.json ...] --out docs/results/parameters.json
"""

import argparse
import json
import shlex
from importlib.metadata import version
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_salstm.plans import add_to_plans

METHODS = {"stock": None, "A": {"module": "A"}, "B": {"module": "B"}, "conv": {"module": "conv"}}


def count(plans, configuration, salstm):
    if salstm is not None:
        plans = add_to_plans(plans, configuration, salstm)
    architecture = plans["configurations"][configuration]["architecture"]
    with torch.device("meta"):
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            input_channels=1,
            output_channels=3,
        )
    return sum(parameter.numel() for parameter in network.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, nargs="+")
    parser.add_argument("--configurations", nargs="+", default=["3d_fullres", "2d"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    for file in arguments.plans:
        plans = json.loads(file.read_text())
        for configuration in arguments.configurations:
            counts = {name: count(plans, configuration, salstm) for name, salstm in METHODS.items()}
            rows.append({
                "dataset": plans["dataset_name"],
                "plans": plans["plans_name"],
                "configuration": configuration,
                "stock_parameters": counts["stock"],
                "ratio": {name: round(number / counts["stock"], 3) for name, number in counts.items()},
            })  # fmt: skip
            print(rows[-1])
    names = [f"{file.parent.name}/{file.name}" for file in arguments.plans]
    result = {
        "command": shlex.join(["python", "benchmarks/parameters.py", *names]),
        "versions": {name: version(name) for name in ("nnunetv2-salstm", "nnunetv2")},
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
