"""A study whose commands are stand-ins that take no time: for tests of what starts, locks and judges them.

`Toys` makes nnU-Net's folders with empty raw data, and a Python environment with the installed packages whose commands
of nnU-Net write what nnU-Net leaves behind, and nothing else. Each call is written down.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import yaml

OFF, A = "nnUNetTrainerSALSTMOff_3epochs", "nnUNetTrainerSALSTM_A_3epochs"
COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_preprocess", "nnUNetv2_train", "nnUNetv2_predict")
# Each behaves as files in the folder of its study tell: fail.NAME, wait.NAME, where NAME is a word of its arguments.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
root = pathlib.Path({root!r})
program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
def option(name, default=None):
    return words[words.index(name) + 1] if name in words else default
def there(kind):
    return [file for file in root.glob(kind + ".*") if file.name.partition(".")[2] in (program, *words)]
def say(event):
    with (root / "calls").open("a") as file:
        file.write(json.dumps([event, program, *words]) + "\\n")
def raw(number):
    (folder,) = (root / "raw").glob(f"Dataset{{int(number):03d}}_*")
    return folder
def cases(folder):
    return sorted({{file.name[:-len("_0000.nii.gz")] for file in folder.iterdir()}})
say("start")
if os.environ.get("CUDA_VISIBLE_DEVICES"):
    say("on " + os.environ["CUDA_VISIBLE_DEVICES"])
if os.environ.get("OMP_WAIT_POLICY"):
    say("waits " + os.environ["OMP_WAIT_POLICY"])
if there("fail"):
    print("no more memory")
    sys.exit(3)
if program in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_preprocess"):
    data = raw(option("-d"))
    folder = root / "preprocessed" / data.name
    (folder / "toy_3d").mkdir(parents=True, exist_ok=True)
    plans = {{"configurations": {{"3d_fullres": {{"data_identifier": "toy_3d"}}}}}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    for case in cases(data / "imagesTr"):
        (folder / "toy_3d" / f"{{case}}.pkl").touch()
elif program == "nnUNetv2_train":
    model = f"{{option('-tr')}}__{{option('-p', 'nnUNetPlans')}}__{{words[1]}}"
    folder = root / "results" / raw(words[0]).name / model / f"fold_{{words[2]}}"
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    if "--c" not in words and "--val" not in words:
        (folder / "checkpoint_best.pth").touch()
        with (folder / "training_log_1.txt").open("w") as log:
            log.write("12:00: Epoch 0\\n12:00: Epoch time: 90.0 s\\n")
        while there("wait"):
            time.sleep(0.05)
    (folder / "checkpoint_final.pth").touch()
    (folder / "validation" / "summary.json").write_text(json.dumps({{"foreground_mean": {{}}}}))
elif program == "nnUNetv2_predict":
    part, parts = int(option("-part_id", 0)), int(option("-num_parts", 1))
    pathlib.Path(option("-o")).mkdir(parents=True, exist_ok=True)
    for case in cases(pathlib.Path(option("-i")))[part::parts]:
        pathlib.Path(option("-o"), f"{{case}}.nii.gz").touch()
elif words[0] == "compare":
    for name in ("--html", "--json"):
        file = pathlib.Path(option(name))
        file.parent.mkdir(parents=True, exist_ok=True)
        import shlex
        file.write_text(json.dumps({{"inputs": {{"command": shlex.join([program, *words])}}}}))
else:
    folder = root / "results" / "studies" / "toys"
    text = pathlib.Path(words[1]).read_text()
    for kind in ("html", "json"):
        (folder / f"report.{{kind}}").write_text(json.dumps({{"study": {{"text": text}}, "missing": {{}}}}))
say("end")
"""
STUDY = {
    "name": "toys",
    "datasets": [901],
    "configurations": ["3d_fullres"],
    "folds": [0, 1],
    "trainers": ["nnUNetTrainerSALSTMOff", "nnUNetTrainerSALSTM_A"],
    "epochs": 3,
    "device": "cpu",
    "resources": {
        kind: {"cpus": 1, "memory_gb": 1, "hours": 1}
        for kind in ("preprocess", "train", "predict", "compare", "report")
    },
}


class Toys:
    """A study of stand-ins.

    Args:
        root: a folder of its own.
        changes: of the study file.
    """

    def __init__(self, root: Path, **changes: object):
        self.root, self.results = root, root / "results"
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            folder = root / "raw" / "Dataset901_Toys" / name
            folder.mkdir(parents=True)
            if name.startswith("images"):
                for case in range(3):
                    (folder / f"{name[-2:]}_{case}_0000.nii.gz").touch()
        (folder.parent / "dataset.json").write_text(json.dumps({"labels": {}, "file_ending": ".nii.gz"}))
        for name in ("preprocessed", "results"):
            (root / name).mkdir()
        self.file = root / "study.yaml"
        self.write(**changes)
        self._make_environment()

    def write(self, **changes: object) -> None:
        """Writes the study file."""
        self.file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))

    def _make_environment(self) -> None:
        self.python = self.root / "bin" / "python"
        self.python.parent.mkdir()
        base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        self.python.symlink_to(base)
        (self.root / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
        site = self.root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        site.parent.mkdir(parents=True)
        site.symlink_to(sysconfig.get_path("purelib"))
        program = PROGRAM.format(python=base, root=str(self.root))
        for name in (*COMMANDS, "nnUNetv2_salstm"):
            file = self.python.with_name(name)
            file.write_text(program)
            file.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Returns the variables of its processes."""
        folders = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        return {
            **os.environ,
            **folders,
            # A checkout, not what is installed: that is the environment's anyway, and has packages with names of
            # Python's own, such as argparse, which would come first.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if Path(p, "pyproject.toml").is_file()),
        }

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """Starts the real command on the study."""
        program = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [self.python, "-c", program, "study", self.file, *map(str, words)],
            env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            # Where tests run in the background of a shell, it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self, *words: object) -> tuple[int, str]:
        """Runs it, and returns its status and what it printed."""
        process = self.start(*words)
        printed = process.communicate(timeout=300)[0]
        return process.returncode, printed

    def calls(self, event: str = "start") -> list[list[str]]:
        """Returns what stand-ins were called with, those that started or those that came to their end."""
        file = self.root / "calls"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return [words for found, *words in lines if found == event]

    def folder(self, trainer: str, fold: int) -> Path:
        """Returns the folder of a training."""
        return self.results / "Dataset901_Toys" / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def trained(toys: Toys, trainer: str, event: str = "start") -> list[list[str]]:
    """Returns the calls that trained with a trainer."""
    return [words for words in toys.calls(event) if words[0] == "nnUNetv2_train" and trainer in words]
