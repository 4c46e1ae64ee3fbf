"""Trains at ten times nnU-Net's learning rate and writes the losses: python benchmarks/float16_training.py --json FILE

The steps are nnU-Net's own, on one batch of noise: on a GPU under its autocast to float16, with its scaling of the
loss; on the CPU in float32. The exit status is 1 where a loss is not finite though the stock network's all are.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

from nnunetv2_salstm.host.configurations import presets
from nnunetv2_salstm.host.versions import describe_hardware, package_versions

TRAINERS = ("nnUNetTrainerSALSTMOff", "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B")
FACTOR = 10


def losses(trainer: str, preset: str, device: str, steps: int, batch_size: int | None) -> dict:
    """Returns the loss of each step, and the last scale of the loss under float16."""
    from nnunetv2_salstm.evaluation.measure import Subject, release_memory

    subject = Subject(trainer, presets([preset])[0], device, batch_size)
    host = subject.trainer
    for group in host.optimizer.param_groups:
        group["lr"] *= FACTOR
    found = [float(host.train_step(subject.batch)["loss"]) for _ in range(steps)]
    scale = host.grad_scaler.get_scale() if host.grad_scaler is not None else None
    del subject, host
    release_memory(device)
    # JSON has no nan.
    return {"losses": [loss if math.isfinite(loss) else None for loss in found], "last_scale": scale}


def main() -> int:
    """Trains the networks one after the other and writes a file after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--preset", default="hippocampus3d", help="plans, as of nnUNetv2_salstm bench (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="at most so many samples (default: the plans')")
    parser.add_argument("-device", default="cuda", help="(%(default)s)")
    arguments = parser.parse_args()
    result = {
        "preset": arguments.preset,
        "learning_rate_factor": FACTOR,
        "precision": "float16 autocast" if arguments.device.startswith("cuda") else "float32",
        "versions": package_versions(),
        "hardware": describe_hardware(arguments.device),
        "trainers": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(Path(folder) / name)
        for trainer in TRAINERS:
            found = losses(trainer, arguments.preset, arguments.device, arguments.steps, arguments.batch_size)
            result["trainers"][trainer] = found
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{trainer}: loss {found['losses'][0]} to {found['losses'][-1]}", flush=True)
    stock, *ours = (None not in found["losses"] for found in result["trainers"].values())
    if stock and not all(ours):
        print("a loss is not finite where the stock network's are", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
