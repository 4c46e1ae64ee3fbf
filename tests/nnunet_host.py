"""nnU-Net's commands in folders of a test's own, several in one process."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import nnunet_environment, write_dataset
from places import COMMANDS


class Host:
    """nnU-Net with folders of its own.

    Args:
        root: for raw, preprocessed and results, which are made.
        release: a folder with another release of nnunetv2 than the installed one.
    """

    def __init__(self, root: Path, release: Path | None = None):
        self.root, self.release = root, release
        self.results = root / "results"
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir(parents=True)

    def plan(self, number):
        """Plans a dataset; its networks are made small, and it is preprocessed, by the tests."""
        # nnU-Net's planner computes on as many threads as the augmentation has workers, and fails with none.
        commands = f"nnUNetv2_extract_fingerprint -d {number} -np 1", f"nnUNetv2_plan_experiment -d {number}"
        return self.run(*commands, workers=1)

    def environment(self, workers=0):
        """Returns the variables of a process.

        Args:
            workers: of nnU-Net's augmentation.
        """
        settings = {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": str(workers), "PYTHONWARNINGS": "ignore"}
        path = {} if self.release is None else {"PYTHONPATH": str(self.release)}
        return {**nnunet_environment(self.root), **settings, **path}

    def run(self, *commands, cwd=None, results=None, workers=0):
        """Runs commands, each a line, and returns what they printed."""
        file = self.root / "commands.json"
        file.write_text(json.dumps([command.split() for command in commands]))
        environment = self.environment(workers)
        if results is not None:
            environment["nnUNet_results"] = str(results)
        process = subprocess.run(
            [sys.executable, COMMANDS, file], cwd=cwd or self.root, env=environment, text=True, capture_output=True
        )
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        return process.stdout

    def dataset(self, number):
        (folder,) = (self.root / "raw").glob(f"Dataset{number}_*")
        return folder

    def model(self, number, trainer, plans, configuration):
        return self.results / self.dataset(number).name / f"{trainer}__{plans}__{configuration}"


def prepare(root: Path, numbers: list[int]) -> Host:
    """Returns nnU-Net's folders with data sets, planned with tiny networks; preprocessing is the study's work."""
    host = Host(root)
    for number in numbers:
        name = {901: "Spheres", 902: "Discs"}[number]
        write_dataset(root / "raw" / f"Dataset{number}_{name}", seed=number)
        host.plan(number)
        plans_file = root / "preprocessed" / f"Dataset{number}_{name}" / "nnUNetPlans.json"
        plans = json.loads(plans_file.read_text())
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["arch_kwargs"]["features_per_stage"] = [8, 8, 16, 16]
        plans_file.write_text(json.dumps(plans))
    return host
