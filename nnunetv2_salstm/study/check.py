"""What is wrong with a study on this machine, found before anything is started."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.study import Study, nearest, split_trainer
from nnunetv2_salstm.study.tasks import PLANNERS, Compare, Preprocess, Task

# What nnU-Net plans for any data set.
_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
_CASCADE = "3d_cascade_fullres"


def check_study(study: Study, tasks: Sequence[Task]) -> None:
    """Checks trainers, plans and configurations.

    Raises:
        SalstmError: if one of them is not there, or cannot be in a study.
    """
    for trainer in study.trainers:
        _check_trainer(study, trainer)
    for task in tasks:
        if isinstance(task, Preprocess):
            _check_plans(study, task)
    compares = any(isinstance(task, Compare) for task in tasks)
    if compares and importlib.util.find_spec("monai") is None:
        raise SalstmError('compare needs MONAI; install it with: pip install "nnunetv2-salstm[compare]"')


def check_folder(folder: Folder) -> None:
    """Makes sure that the study's folders are there and can be written to.

    Raises:
        SalstmError: if they cannot.
    """
    try:
        for place in (folder.tasks, folder.study):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise SalstmError(
            f"{folder.tasks.parent} cannot be written to ({error.strerror}); set nnUNet_results to a folder of yours"
        ) from None


def check_executor(study: Study, executor: str) -> None:
    """Checks that what starts the tasks is on this machine.

    Raises:
        SalstmError: if it is not.
    """
    if importlib.util.find_spec("submitit") is None:
        raise SalstmError(
            'running a study needs submitit; install it with: pip install "nnunetv2-salstm[matrix]", or print its '
            "commands with --dry-run"
        )
    if executor == "slurm":
        absent = [program for program in ("sbatch", "squeue", "srun") if shutil.which(program) is None]
        if absent:
            raise SalstmError(
                f"there is no Slurm on this machine ({', '.join(absent)} not found); run it on a login node of the "
                "cluster, or here with --executor local"
            )
    elif study.device == "cuda" and not (gpus := gpus_of_this_machine()):
        raise SalstmError(
            "there is no GPU on this machine for device cuda; run it where there is one, or set device: cpu in the "
            "study"
        )
    elif study.device == "cuda" and len(gpus) < (wanted := study.resources["train"].gpus):
        raise SalstmError(f"resources: train: gpus must be at most {len(gpus)} on this machine, got {wanted}")


def gpus_of_this_machine() -> tuple[str, ...]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True)
    return tuple(found.stdout.split()) if found.returncode == 0 else ()


def _check_trainer(study: Study, trainer: str) -> None:
    from nnunetv2_salstm.host.trainer_names import METHODS, TrainerName

    stem, own = split_trainer(trainer)
    theirs = _trainers_of_nnunet()
    (run, *_) = study.runs_of(trainer)
    try:
        TrainerName.parse(run)
    except ValueError as error:
        if trainer not in theirs and not _is_found(trainer):
            ours = [f"{arm}{place}" for arm, salstm in METHODS.items() for place in _PLACES if salstm or not place]
            near = nearest(trainer, [*theirs, trainer]) if trainer in theirs else nearest(stem, [*ours, *theirs])
            raise SalstmError(f"{study.file}: there is no trainer {trainer}{near}; {error}") from None
        # Its name is one of nnU-Net's or of another package, which know no suffixes of ours.
        if run != trainer or own["seed"] is not None or study.seeds:
            demanded = ", ".join(key for key in ("seeds", "epochs", "iterations") if getattr(study, key))
            raise SalstmError(
                f"{study.file}: {trainer} takes no {demanded}; nnUNetTrainerSALSTMOff is the stock network with them"
            ) from None


_PLACES = ("", "_bottleneck", "_skips", "_25d")


def _trainers_of_nnunet() -> list[str]:
    """Returns the names of nnU-Net's own trainers, read from its files."""
    spec = importlib.util.find_spec("nnunetv2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "training" / "nnUNetTrainer"
    files = sorted(folder.rglob("*.py"))
    return sorted({name for f in files for name in re.findall(r"^class (\w+)", f.read_text(), re.MULTILINE)})


def _is_found(trainer: str) -> bool:
    """Whether nnU-Net finds a trainer of this name, also in the folders of nnUNet_extTrainer."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        # It says where it looks, and our own trainers say what they are called; the error does so, too.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            recursive_find_trainer_class_by_name(trainer)
    except RuntimeError:
        return False
    return True


def _check_plans(study: Study, task: Preprocess) -> None:
    if task.plans_file.is_file():
        there = list(json.loads(task.plans_file.read_text())["configurations"])
        known = f"{task.plans_file}"
    elif task.plans in PLANNERS:
        there, known = list(_CONFIGURATIONS), "nnU-Net"
    else:
        raise SalstmError(
            f"{study.file}: there are no plans {task.plans} of {task.dataset.name}{nearest(task.plans, PLANNERS)}; "
            f"nnU-Net makes {', '.join(PLANNERS)}, and nnUNetv2_salstm plan makes others"
        )
    for name in task.configurations:
        if name == _CASCADE:
            raise SalstmError(
                f"{study.file}: {name} cannot be in a study, as it needs the predictions of a training of 3d_lowres"
            )
        if name not in there:
            raise SalstmError(
                f"{study.file}: {known} plans no configuration {name} of {task.dataset.name}{nearest(name, there)}; "
                f"there are {', '.join(c for c in there if c != _CASCADE)}"
            )
