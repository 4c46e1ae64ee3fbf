"""What the workflow file asks of this package: where a study lies, what is finished, and what a job may use."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_salstm.study.graph import unfinished
from nnunetv2_salstm.study.jobs import Job, study_folder
from nnunetv2_salstm.study.locks import holder
from nnunetv2_salstm.study.schema import Study

SNAKEFILE = Path(__file__).with_name("Snakefile")
# Empty files by which Snakemake sees what is finished; they are made anew from nnU-Net's outputs at each start.
MARKS = "finished"


def mark(study: Study, jobs: Sequence[Job]) -> None:
    """Makes the mark of each finished job and removes the others, unless the study is run already."""
    if holder(launch_lock(study)):
        return
    marks = study_folder(study.name) / MARKS
    marks.mkdir(parents=True, exist_ok=True)
    finished = {marks / job.name for job in jobs} - {marks / name for name in unfinished(jobs)}
    for file in set(marks.iterdir()) - finished:
        file.unlink()
    for file in finished:
        file.touch()


def resources_of(study: Study, kind: str) -> dict[str, Any]:
    """Returns the resources of a kind of job by Snakemake's names and those of its executor for Slurm."""
    own, everywhere = study.resources[kind], study.slurm
    values = {
        "gpu": own.gpus,
        "cpus_per_task": own.cpus,
        "mem_mb": own.memory_gb * 1000,
        "runtime": max(1, round(own.hours * 60)),
        "slurm_partition": own.partition or everywhere.partition,
        "slurm_account": own.account or everywhere.account,
        "constraint": own.constraint or everywhere.constraint,
        "qos": everywhere.qos,
        "slurm_extra": " ".join(_option(key, value) for key, value in everywhere.options.items()),
    }
    return {name: value for name, value in values.items() if value}


def _option(key: str, value: Any) -> str:
    """Returns an option for sbatch, for the shell; of a flag the value is true."""
    return f"--{key}" if value is True else shlex.quote(f"--{key}={value}")


def launch_lock(study: Study) -> Path:
    """Returns the lock that the process holds which runs a study."""
    return study_folder(study.name) / "launch.lock"
