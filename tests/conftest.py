"""A tiny nnU-Net data set, planned and preprocessed once through the real commands."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import COMMANDS
from shared_work import made_once, shared_folder

# The networks made in this process are tiny: threads wait for each other longer than they compute. Processes that tests
# start train real ones and have all cores, each of them: none should spin while it waits.
torch.set_num_threads(1)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SCRIPTS = Path(sys.executable).parent
DATASET = "Dataset998_Ellipsoids"


def write_dataset(folder: Path, cases: int = 5, size: tuple[int, int, int] = (8, 40, 40), seed: int = 0) -> None:
    """Writes a raw nnU-Net data set of two nested ellipsoids in noise, 4 x 1.5 x 1.5 mm, and one test case."""
    import SimpleITK as sitk

    rng = np.random.default_rng(seed)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    zyx = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"))
    for case in range(cases + 1):
        center = np.array(size) / 2 + rng.uniform(-2, 2, 3) * (0.5, 2, 2)
        radius = np.array([2.5, 11, 9]) * rng.uniform(0.8, 1.2)
        distance = np.sqrt((((zyx - center[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0))
        label = np.where(distance < 0.6, 2, np.where(distance < 1, 1, 0)).astype(np.uint8)
        image = (100 * label + 40 * rng.normal(size=size)).astype(np.float32)
        kind, prefix = ("Ts", "test") if case == cases else ("Tr", "case")
        for array, path in [
            (image, folder / f"images{kind}" / f"{prefix}_{case}_0000.nii.gz"),
            (label, folder / "labelsTr" / f"{prefix}_{case}.nii.gz"),
        ]:
            if path.parent.name == "labelsTr" and kind == "Ts":
                continue
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((1.5, 1.5, 4.0))
            sitk.WriteImage(volume, str(path))
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def nnunet_variables(root: Path) -> dict[str, str]:
    """Returns nnU-Net's own environment variables for folders below root."""
    folders = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    return {**folders, "nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "1"}


def nnunet_environment(root: Path) -> dict[str, str]:
    """Returns this process's environment with none of nnU-Net's variables but those of root."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return {**others, **nnunet_variables(root)}


def run_command(root: Path, command: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs one of nnU-Net's commands in root, in an environment without a trace of ours but the start-up hook."""
    process = subprocess.run(
        [SCRIPTS / command, *map(str, arguments)],
        cwd=root,
        env=nnunet_environment(root),
        text=True,
        capture_output=True,
        check=False,
    )
    if check and process.returncode:
        raise AssertionError(f"{command} {arguments} failed:\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}")
    return process


def in_one_process(root: Path, *commands: str) -> None:
    """Runs commands without the start of Python and nnU-Net that each of them and of their processes would take."""
    file = root / "commands.json"
    file.write_text(json.dumps([command.split() for command in commands]))
    run_command(root, sys.executable, COMMANDS, file)


def plan_and_preprocess(root: Path) -> None:
    """Makes the tiny data set, planned for all configurations and preprocessed for 3d_fullres."""
    (root / "results").mkdir()
    write_dataset(root / "raw" / DATASET)
    in_one_process(root, "nnUNetv2_plan_and_preprocess -d 998 -c 3d_fullres -npfp 1 -np 1")
    plans_file = root / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    for name in ("3d_fullres", "2d"):
        # A network of few channels: these tests are about the commands.
        plans["configurations"][name]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 8, 16, 16]
    plans_file.write_text(json.dumps(plans))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder with raw, preprocessed and results of the tiny data set, this process's own copy."""
    planned = made_once(shared_folder(tmp_path_factory.getbasetemp()) / "planned", plan_and_preprocess)
    return shutil.copytree(planned, tmp_path_factory.mktemp("nnunet") / "copy")


@pytest.fixture
def nnunet(workspace, monkeypatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of nnU-Net in the workspace; sets its variables for this process too."""
    for name, value in nnunet_variables(workspace).items():
        monkeypatch.setenv(name, value)

    def run(command: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run_command(workspace, command, *arguments, check=check)

    return run


@pytest.fixture
def make(nnunet, workspace):
    """Makes a trainer on the tiny data set, with values of ours in its plans if given."""
    # Here, as nnU-Net reads its variables when it is imported.
    from nnunetv2_salstm.host import frames as neighbours
    from nnunetv2_salstm.trainers import get_trainer

    def make_trainer(
        name, salstm=None, configuration="3d_fullres", plans_name="nnUNetPlans", fold=0, batch_size=None, frames=None
    ):
        folder = workspace / "preprocessed" / DATASET
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["plans_name"] = plans_name
        plans["continue_training"] = False
        arguments = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
        if salstm is not None:
            arguments["salstm"] = salstm
        if batch_size is not None:
            plans["configurations"][configuration]["batch_size"] = batch_size
        dataset = json.loads((folder / "dataset.json").read_text())
        if frames is not None:
            dataset = {**neighbours.with_neighbours(dataset), neighbours.KEY: frames}
        trainer = name if isinstance(name, type) else get_trainer(name)
        made = trainer(plans, configuration, fold, dataset, torch.device("cpu"))
        # Only this configuration is preprocessed; from the folder nnU-Net infers the format of the files.
        made.preprocessed_dataset_folder = str(folder / "nnUNetPlans_3d_fullres")
        return made

    return make_trainer


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch) -> Path:
    """Sets nnU-Net's variables to empty folders for this process, and returns the one above them."""
    root = tmp_path / "nnunet"
    for name in ("raw", "preprocessed"):
        (root / name).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return root
