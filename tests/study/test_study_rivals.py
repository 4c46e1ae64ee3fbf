"""Another package's trainers beside ours in one tiny study; segforge (GPL) is installed here, never imported."""

import json
import subprocess

import pytest
import yaml
from environments import Environment, installed
from nnunet_host import prepare
from places import ROOT, TESTS

pytest.importorskip("snakemake", reason="the extra study is not installed")

pytestmark = [pytest.mark.nightly]

RIVALS = ROOT / "examples" / "studies" / "rivals.yaml"
# Their trainers take no length from their names: in this environment nnU-Net's own is an epoch of two iterations.
SHORT = """
import sys

if any("nnUNetv2_train" in word for word in sys.orig_argv):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    start = nnUNetTrainer.__init__
    def short(self, *arguments, **keywords):
        start(self, *arguments, **keywords)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
    nnUNetTrainer.__init__ = short
"""
# A console script of an installed package; the path of Python has blanks.
COMMAND = """#!/bin/sh
exec "{python}" -c "
from importlib.metadata import entry_points
(script,) = entry_points(group='console_scripts', name='{name}')
script.load()()
" "$@"
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    found = installed(tmp_path_factory.mktemp("rivals"), "wheel")
    # With an index, unlike the other environments.
    subprocess.run([found.python, "-m", "pip", "install", "--quiet", "--no-deps", "segforge"], check=True)
    (found.site_packages / "sitecustomize.py").write_text(SHORT)
    # Its packages are those of the running environment, whose commands start another Python.
    for name in ("nnUNetv2_preprocess", "nnUNetv2_train"):
        command = found.python.with_name(name)
        command.write_text(COMMAND.format(python=found.python, name=name))
        command.chmod(0o755)
    return found


def theirs(environment: Environment) -> str:
    """Returns the folder of segforge's trainers."""
    return environment.output("from importlib.util import find_spec; print(find_spec('segforge').origin)").replace(
        "__init__.py", "training/nnUNetTrainer"
    )


def test_nnunet_finds_the_trainers_of_both_packages(environment):
    names = [item["trainer"] for item in yaml.safe_load(RIVALS.read_text())["trainers"] if isinstance(item, dict)]
    assert len(names) == 3
    program = TESTS / "look_up_trainers.py"
    found = environment.run(program, *names, "nnUNetTrainerSALSTM_A_5epochs", nnUNet_extTrainer=theirs(environment))
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_tiny_study_trains_ours_and_theirs_and_compares_them(environment, tmp_path):
    host = prepare(tmp_path / "host", [901])
    file = tmp_path / "rivals.yaml"
    file.write_text(yaml.safe_dump({
        "name": "rivals_tiny",
        "datasets": [901],
        "configurations": ["3d_fullres"],
        "folds": [0],
        "trainers": [
            {"trainer": "nnUNetTrainerSALSTMOff", "label": "stock"},
            {"trainer": "nnUNetTrainerSALSTM_A", "label": "ours"},
            {"trainer": "UNetTrainer", "label": "theirs", "epochs": 1},
        ],
        "epochs": 1,
        "iterations": 2,
        "seeds": [0],
        "test": False,
        "device": "cpu",
        "resources": {"preprocess": {"cpus": 1}},
    }))  # fmt: skip
    program = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main())"
    variables = {k: v for k, v in host.environment().items() if k.startswith("nnUNet_")}
    variables["nnUNet_extTrainer"] = theirs(environment)
    found = environment.run("-c", program, "study", file, "--jobs", "2", OMP_NUM_THREADS="1", **variables)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    report = json.loads((host.results / "studies" / "rivals_tiny" / "report.json").read_text())
    assert {m["label"]: m["trainings"] for m in report["methods"].values()} == {"stock": 1, "ours": 1, "theirs": 1}
    assert report["missing"] == {}
    assert {row["method"] for row in report["verdicts"]} == {"nnUNetTrainerSALSTM_A_1epochs_2its", "UNetTrainer"}
