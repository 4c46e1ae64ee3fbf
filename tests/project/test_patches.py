"""The patches apply to the release that they name, with the lines of patches/README.md, and do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import nnunetv2
import pytest
from environments import clean_variables
from places import ROOT
from presets import plans_of, tiny
from releases import contents, release

import nnunetv2_salstm
from nnunetv2_salstm_autoload import trainers_folder

PACKAGE = Path(nnunetv2_salstm.__file__).parents[1]
# Where the packages are installed Python looks anyway; in front of the standard library they would hide parts of it.
OURS = [] if PACKAGE.name in ("site-packages", "dist-packages") else [str(PACKAGE)]
FOLDER = ROOT / "patches"
PATCHES = sorted(FOLDER.glob("*.patch"))
README = (FOLDER / "README.md").read_text()
# What the README says to type: where to go, and the two ways to apply a patch.
CHANGE_FOLDER, *APPLY = re.findall(r"^    (\S.*)$", README, re.MULTILINE)


def applied_to(path: Path) -> str:
    (named,) = re.findall(r"^nnU-Net (\d+\.\d+\.\d+):", path.read_text())
    return named


# Other releases than the installed one are fetched.
every_patch = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if applied_to(path) == version("nnunetv2") else pytest.mark.nightly)
        for path in PATCHES
    ],
)


@pytest.fixture
def site_packages(path, tmp_path, tmp_path_factory) -> Path:
    """A folder in a Git repository, as of an environment in a project, with the release and this package's patches."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    folder = tmp_path / "an environment" / "site-packages"
    shutil.copytree(release(tmp_path_factory.getbasetemp() / "releases", applied_to(path)), folder)
    shutil.copytree(FOLDER, folder / "nnunetv2_salstm" / "_patches")
    return folder


def shell(line: str, path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Types a line of the README, for another patch than its example."""
    line = re.sub(r"\d{4}-\S+\.patch", path.name, line)
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True)


def python(folder: Path, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with a copy of nnU-Net in front of the installed one."""
    path = {"PYTHONPATH": os.pathsep.join([str(folder), *OURS])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=folder.parent, env=clean_variables() | path | variables, capture_output=True, text=True
    )


def test_the_readme_lists_the_patches_and_has_both_lines():
    names = [path.name for path in PATCHES]
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
    assert re.findall(r"^\| `(\d{4}-[^`]+\.patch)`", README, re.MULTILINE) == names
    assert [re.findall(r"\b(patch -p1|git apply) ", line) for line in APPLY] == [["patch -p1"], ["git apply"]]
    assert set(re.findall(r"\d{4}-\S+?\.patch", " ".join(APPLY))) <= set(names)


def test_the_folder_to_go_to_is_where_packages_are_installed(tmp_path):
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = ["bash", "-c", f"{CHANGE_FOLDER} && pwd"]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(printed.strip()) == Path(sysconfig.get_path("purelib"))


@every_patch
@pytest.mark.parametrize("line", APPLY, ids=["patch", "git"])
def test_the_documented_lines_apply_and_undo(line, path, site_packages):
    before = contents(site_packages)
    targets = re.findall(r"^\+\+\+ b/(\S+)$", path.read_text(), re.MULTILINE)
    undo = re.sub("patch -p1|git apply", r"\g<0> -R", line)
    result = shell(line, path, site_packages)
    assert result.returncode == 0, result.stderr
    changed = contents(site_packages)
    assert changed.keys() == before.keys()
    assert {name for name in before if before[name] != changed[name]} == set(targets)
    for target in targets:
        compile(changed[target], target, "exec")
    # Once is enough, and a file of another release is left alone.
    result = shell(line, path, site_packages)
    assert result.returncode == 1
    assert result.stdout + result.stderr
    assert contents(site_packages) == changed
    assert shell(undo, path, site_packages).returncode == 0
    assert contents(site_packages) == before
    (site_packages / targets[-1]).write_text("another release\n")
    other = contents(site_packages)
    assert shell(f"{line} --dry-run" if "patch -p1" in line else line, path, site_packages).returncode == 1
    assert contents(site_packages) == other


@pytest.mark.skipif(version("nnunetv2") != "2.8.1", reason="the fault is nnU-Net 2.8.1's")
@pytest.mark.parametrize("path", PATCHES[:1], ids=["0001"])
def test_the_acdc_converter_finds_its_folder(path, site_packages):
    (site_packages / "raw").mkdir()
    code = "from nnunetv2.dataset_conversion.Dataset027_ACDC import make_out_dirs; print(make_out_dirs(27)[0])"
    raw = {"nnUNet_raw": str(site_packages / "raw")}
    assert shell(APPLY[0], path, site_packages).returncode == 0
    result = python(site_packages, code, **raw)
    assert result.stdout.strip() == str(site_packages / "raw" / "Dataset027_ACDC"), result.stderr
    release_of = Path(nnunetv2.__file__).parents[1]
    shutil.copy(
        release_of / "nnunetv2/dataset_conversion/Dataset027_ACDC.py", site_packages / "nnunetv2/dataset_conversion"
    )
    assert "object has no attribute 'replace'" in python(site_packages, code, **raw).stderr


FIND = """
import sys
import torch
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("Dataset998_Tiny", "3d_fullres", 0, sys.argv[1], device=torch.device("cpu"))
print(type(trainer).__module__)
"""
TRAIN_AND_LOAD = f"""{FIND}
import json
from pathlib import Path
import nnunetv2
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
trainer.initialize()
trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
model = Path(trainer.output_folder_base)
(model / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
(model / "dataset.json").write_text(json.dumps(trainer.dataset_json))
predictor = nnUNetPredictor(device=torch.device("cpu"))
predictor.initialize_from_trained_model_folder(str(model), (0,))
print(type(predictor.network).__name__, nnunetv2.__file__)
"""


LOAD = """
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class Trainer(nnUNetTrainer):
    def __init__(self):
        self.was_initialized, self.is_ddp, self.grad_scaler = True, False, None
        self.network = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 1.0)
        self.logger = type("Logger", (), {"load_checkpoint": lambda self, logging: None})()
trainer, other = Trainer(), Trainer()
names = ["init_args", "logging", "_best_ema", "inference_allowed_mirroring_axes"]
checkpoint = {**dict.fromkeys(names), "current_epoch": 7, "network_weights": other.network.state_dict()}
trainer.load_checkpoint({**checkpoint, "optimizer_state": other.optimizer.state_dict()})
print(trainer.current_epoch, torch.equal(trainer.network.weight, other.network.weight))
"""


@pytest.mark.nightly
@pytest.mark.skipif(version("nnunetv2") != "2.8.1", reason="the fault is nnU-Net 2.8.1's")
@pytest.mark.parametrize("path", PATCHES[4:5], ids=["0005"])
def test_a_checkpoint_that_was_read_is_loaded(path, site_packages):
    assert "UnboundLocalError" in python(site_packages, LOAD).stderr
    assert shell(APPLY[0], path, site_packages).returncode == 0
    result = python(site_packages, LOAD)
    assert result.stdout.split() == ["7", "True"], result.stderr


@pytest.mark.nightly
@pytest.mark.skipif(version("nnunetv2") != "2.8.1", reason="the proposal is for nnU-Net 2.8.1")
@pytest.mark.parametrize("path", PATCHES[5:6], ids=["0006"])
def test_trainers_are_found_by_entry_points(path, site_packages):
    code = "import sys\nfrom nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
    code += "print(find(sys.argv[1]).__module__)"
    described = site_packages / "theirs-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[nnunetv2.trainers]\ntheirs = theirs:find\n")
    (site_packages / "theirs.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class TheirTrainer(nnUNetTrainer): pass\n"
        "def find(name): return TheirTrainer if name == 'TheirTrainer' else None\n"
    )
    alone = {"NNUNETV2_SALSTM_NO_AUTOLOAD": "1"}
    assert "Could not find requested nnunet trainer" in python(site_packages, code, "TheirTrainer", **alone).stderr
    assert shell(APPLY[0], path, site_packages).returncode == 0
    result = python(site_packages, code, "TheirTrainer", **alone)
    assert result.stdout.splitlines() == ["Using trainer 'TheirTrainer' from: theirs:find", "theirs"], result.stderr
    stock = python(site_packages, code, "nnUNetTrainer", **alone)
    assert stock.stdout.split() == ["nnunetv2.training.nnUNetTrainer.nnUNetTrainer"]
    assert "Could not find" in python(site_packages, code, "nnUNetTrainerNobodys", **alone).stderr


@pytest.mark.nightly
@pytest.mark.parametrize("path", PATCHES[2:4], ids=[applied_to(path) for path in PATCHES[2:4]])
def test_older_releases_learn_to_find_our_trainers(path, site_packages, tmp_path):
    folder = tmp_path / "preprocessed" / "Dataset998_Tiny"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans_of(tiny()) | {"dataset_name": folder.name}))
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "core": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    # nnU-Net chooses a reader by what it finds here.
    (folder / plans_of(tiny())["configurations"]["3d_fullres"]["data_identifier"]).mkdir()
    (folder / plans_of(tiny())["configurations"]["3d_fullres"]["data_identifier"] / "case.b2nd").touch()
    theirs = tmp_path / "theirs" / "package"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    code = (
        "from nnunetv2_salstm.trainers import get_trainer\nclass Theirs(get_trainer('nnUNetTrainerSALSTMOff')): pass\n"
    )
    (theirs / "module.py").write_text(code)
    external = os.pathsep.join([str(tmp_path / "missing"), str(tmp_path / "theirs"), str(trainers_folder())])
    variables = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    variables |= {"nnUNet_extTrainer": external}

    assert shell(APPLY[0], path, site_packages).returncode == 0
    result = python(site_packages, TRAIN_AND_LOAD, "nnUNetTrainerSALSTM_A", **variables)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "nnunetv2_salstm.trainers" in lines
    assert lines[-1] == f"SALSTMPlainConvUNet {site_packages / 'nnunetv2' / '__init__.py'}"
    assert python(site_packages, FIND, "Theirs", **variables).stdout.split()[-1] == "package.module"
    wrong = python(site_packages, FIND, "nnUNetTrainerNobodys", **variables)
    assert f"nor in the folders of nnUNet_extTrainer ({external})" in wrong.stderr
