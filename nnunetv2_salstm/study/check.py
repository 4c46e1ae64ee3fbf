"""What is wrong with a study on this machine, found before anything is started."""

import importlib.util
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.host.frames import channels_of_a_frame
from nnunetv2_salstm.host.trainer_lookup import find_trainer
from nnunetv2_salstm.host.trainer_names import METHODS, NAME_RULE, TrainerName
from nnunetv2_salstm.study.dataset import Dataset
from nnunetv2_salstm.study.jobs import JOBS, PLANNERS, Job, Preprocess, study_folder
from nnunetv2_salstm.study.locks import gpus_of_this_machine
from nnunetv2_salstm.study.schema import Method, Study, nearest

# What nnU-Net plans for any data set.
_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
# Of images without a third axis, of which it plans the first alone.
_PICTURES = (".png", ".bmp")
_CASCADE = "3d_cascade_fullres"
_PLACES = ("", "_bottleneck", "_skips", "_25d")


def check_study(study: Study, jobs: Sequence[Job]) -> None:
    """Checks trainers, folds, plans and configurations.

    Raises:
        SalstmError: if one of them is not there, or cannot be in a study.
    """
    for method in study.trainers:
        _check_trainer(study, method)
    for job in jobs:
        if isinstance(job, Preprocess):
            _check_data(study, job.dataset)
            _check_plans(study, job)


def check_folder(study: Study) -> None:
    """Makes sure that the folders of the study are there and can be written to.

    Raises:
        SalstmError: if they cannot.
    """
    folder = study_folder(study.name)
    try:
        for place in (folder, study_folder(JOBS)):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise SalstmError(
            f"{folder.parent} cannot be written to ({error.strerror}); set nnUNet_results to a folder of yours"
        ) from None


def check_executor(study: Study, executor: str) -> None:
    """Checks that what starts the jobs is on this machine.

    Raises:
        SalstmError: if it is not.
    """
    instead = "or print its commands with --dry-run"
    if sys.version_info < (3, 11):
        raise SalstmError(
            "running a study needs Python 3.11 or newer, as Snakemake does, and this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}; install this package there, {instead}"
        )
    plugins = ["snakemake_executor_plugin_slurm"] if executor == "slurm" else []
    if absent := [name for name in ("snakemake", *plugins) if importlib.util.find_spec(name) is None]:
        raise SalstmError(
            f"running a study needs {' and '.join(absent)}; install the extra with: "
            f'pip install "nnunetv2-salstm[study]", {instead}'
        )
    if executor == "slurm":
        if absent := [program for program in ("sbatch", "squeue", "srun") if shutil.which(program) is None]:
            raise SalstmError(
                f"there is no Slurm on this machine ({', '.join(absent)} not found); run it on a login node of the "
                "cluster, or here with --executor local"
            )
    elif study.device == "cuda":
        gpus, wanted = gpus_of_this_machine(), study.resources["train"].gpus
        if not gpus:
            raise SalstmError(
                "there is no GPU on this machine for device cuda; run it where there is one, or set device: cpu in the "
                "study"
            )
        if len(gpus) < wanted:
            raise SalstmError(f"resources: train: gpus must be at most {len(gpus)} on this machine, got {wanted}")


def _check_trainer(study: Study, method: Method) -> None:
    if method.is_ours:
        return
    trainer, theirs = method.trainer, _trainers_of_nnunet()
    if trainer not in theirs and find_trainer(trainer) is None:
        ours = [f"{name}{place}" for name, salstm in METHODS.items() for place in _PLACES if salstm or not place]
        raise SalstmError(
            f"{study.file}: there is no trainer {trainer}{nearest(trainer, [*ours, *theirs])}; ours are {NAME_RULE}; "
            "those of other packages lie in the folders of nnUNet_extTrainer"
        )
    demanded = [key for key in ("seeds", "epochs", "iterations") if getattr(study, key) and not method.epochs]
    if demanded:
        raise SalstmError(
            f"{study.file}: {trainer} takes no {', '.join(demanded)}; nnUNetTrainerSALSTMOff is the stock network with "
            f"them; to train it once, as it is, state its own length: {{trainer: {trainer}, epochs: N}}"
        )


def _trainers_of_nnunet() -> list[str]:
    """Returns the names of nnU-Net's own trainers, read from its files."""
    import nnunetv2

    files = Path(nnunetv2.__path__[0], "training", "nnUNetTrainer").rglob("*.py")
    return sorted({name for f in files for name in re.findall(r"^class (\w+)", f.read_text(), re.MULTILINE)})


def _check_data(study: Study, dataset: Dataset) -> None:
    # nnU-Net splits at random for a fold that there is not, and patients are on both sides then.
    if unknown := [fold for fold in study.folds if fold != "all" and int(fold) >= dataset.folds]:
        raise SalstmError(
            f"{study.file}: folds must be among 0 to {dataset.folds - 1} of {dataset.name}, got {unknown[0]}; "
            f"its folds are those of {dataset.splits_file}"
        )
    for method in study.trainers:
        if method.is_ours and (TrainerName.parse(method.trainer).salstm or {}).get("sequence") == "frames":
            try:
                channels_of_a_frame(dataset.description)
            except ValueError as error:
                raise SalstmError(f"{study.file}: {method.trainer} cannot train on {dataset.name}: {error}") from None


def _check_plans(study: Study, job: Preprocess) -> None:
    if job.plans_file.is_file():
        there = read_json(job.plans_file, "plans").get("configurations")
        known = f"{job.plans_file}"
        if not isinstance(there, dict):
            raise SalstmError(f"{known} is no plans file of nnU-Net: it lacks configurations")
    elif job.plans in PLANNERS:
        there, known = _CONFIGURATIONS, "nnU-Net"
        if job.dataset.ending.lower() in _PICTURES:
            there = _CONFIGURATIONS[:1]
    else:
        raise SalstmError(
            f"{study.file}: there are no plans {job.plans} of {job.dataset.name}{nearest(job.plans, PLANNERS)}; "
            f"nnU-Net makes {', '.join(PLANNERS)}, and nnUNetv2_salstm plan makes others"
        )
    for name in study.configurations:
        if name == _CASCADE:
            raise SalstmError(
                f"{study.file}: {name} cannot be in a study, as it needs the predictions of a training of 3d_lowres"
            )
        if name not in there:
            raise SalstmError(
                f"{study.file}: {known} plans no configuration {name} of {job.dataset.name}{nearest(name, there)}; "
                f"there are {', '.join(c for c in there if c != _CASCADE)}"
            )
