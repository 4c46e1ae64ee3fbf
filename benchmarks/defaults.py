"""Measures what the grid, the channels and the kernel of the blocks cost: the numbers behind their defaults.

    python benchmarks/defaults.py --out docs/results/defaults.json

For each preset the stock network and networks whose blocks differ from the default in one value take turns in training
steps and inference tiles, as in `nnUNetv2_salstm bench`; ratios of medians to the stock network are reported, with the
smallest and largest ratio of a round.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import median

VARIANTS = {
    "default": {},
    "grid 0": {"grid": 0},
    "grid 1": {"grid": 1},
    "grid 3": {"grid": 3},
    "reduction 2": {"reduction": 2},
    "reduction 8": {"reduction": 8},
    "at most 48 channels": {"max_hidden_channels": 48},
    "kernel 1": {"kernel_size": 1},
    "kernel 5": {"kernel_size": 5},
}
STOCK = "stock"


def subject_of(name, preset, batch_size):
    from nnunetv2_salstm.evaluation.measure import Subject
    from nnunetv2_salstm.host.configurations import presets

    (plan,) = presets([preset])
    if name == STOCK:
        return Subject("nnUNetTrainerSALSTMOff", plan, "cpu", batch_size)
    plan.plans["configurations"][plan.configuration]["architecture"]["arch_kwargs"]["salstm"] = VARIANTS[name]
    return Subject("nnUNetTrainerSALSTM_A", plan, "cpu", batch_size)


def ratios(times):
    """Returns every variant's ratio to the stock network, of medians, with the range of the rounds."""
    found = {}
    for name, values in times.items():
        rounds = [ours / stock for ours, stock in zip(values, times[STOCK], strict=True)]
        found[name] = {
            "ratio": round(median(values) / median(times[STOCK]), 3),
            "range": [round(min(rounds), 3), round(max(rounds), 3)],
        }
    return found


def measure(preset, batch_size, repeats):
    from tqdm import tqdm

    from nnunetv2_salstm.evaluation.measure import WARM_UP_STEPS, time_in_turns

    names = [STOCK, *VARIANTS]
    with tqdm(total=len(names) * (WARM_UP_STEPS + 2 * repeats), desc=preset, unit="step") as bar:
        subjects = {}
        for name in names:
            subjects[name] = subject_of(name, preset, batch_size)
            for _ in range(WARM_UP_STEPS):
                subjects[name].train_step()
                bar.update()
        parameters = {name: sum(p.numel() for p in s.network.parameters()) for name, s in subjects.items()}
        flops = {name: s.count_flops() for name, s in subjects.items()}
        times = time_in_turns(subjects, repeats, bar.update)
    training = ratios({name: values["training_step"] for name, values in times.items()})
    inference = ratios({name: values["inference_tile"] for name, values in times.items()})
    return {
        name: {
            "parameters": round(parameters[name] / parameters[STOCK], 3),
            "flops": round(flops[name] / flops[STOCK], 3),
            "training_step": training[name],
            "inference_tile": inference[name],
        }
        for name in VARIANTS
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["hippocampus3d", "acdc2d"], help="of nnUNetv2_salstm bench")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before nnU-Net is imported, which reads them once.
        os.environ |= {f"nnUNet_{name}": folder for name in ("raw", "preprocessed", "results")}
        os.environ["nnUNet_wandb_enabled"] = "0"

        from nnunetv2_salstm.host.versions import describe_hardware, package_versions

        result = {
            "command": shlex.join(["python", "benchmarks/defaults.py", *sys.argv[1:]]),
            "versions": package_versions(),
            "hardware": describe_hardware("cpu"),
            "batch_size": arguments.batch_size,
            "variants": VARIANTS,
            "presets": {},
        }
        for preset in arguments.preset:
            result["presets"][preset] = measure(preset, arguments.batch_size, arguments.repeats)
            print(json.dumps(result["presets"][preset], indent=1))
            if arguments.out:
                arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
