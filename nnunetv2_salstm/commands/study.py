"""run whole studies: data sets x configurations x folds x trainers x seeds, here, on Slurm or elsewhere

One file names what is compared. Every job is one command of nnU-Net or of this package, run by a Snakemake workflow;
what is finished is told from nnU-Net's own outputs, so that the same command goes on with what is missing.

    study STUDY.yaml --dry-run              prints the commands that are missing, to be pasted into a shell
    study STUDY.yaml --jobs 2               runs them on this machine, two at once
    study STUDY.yaml --executor slurm       submits them, and stays until they have ended
    study STUDY.yaml --status               what is finished, runs or failed, and the time left
    study STUDY.yaml -- --until train       hands options behind -- to Snakemake
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.commands.options import positive
from nnunetv2_salstm.host.errors import SalstmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nnunetv2_salstm.study.jobs import Job
    from nnunetv2_salstm.study.schema import Study

EXECUTORS = ("local", "slurm")
# Our own lock holds and names who has it; marks are as nnU-Net's outputs say, whatever Snakemake remembers of them.
SNAKEMAKE = "--nolock --rerun-incomplete --rerun-triggers mtime --keep-going --quiet host rules".split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which study, what to do with it, and where."""
    parser.usage = "%(prog)s STUDY.yaml [options] [-- options of Snakemake]"
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY.yaml", help="the study file")
    parser.add_argument("--executor", choices=EXECUTORS, default="local", help="where jobs run (%(default)s)")
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="jobs at once (default: as many as there are GPUs; with slurm, parallel of the study file)",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="print the commands that are missing and start nothing")
    action.add_argument("--status", action="store_true", help="print how the study stands and start nothing")
    action.add_argument(
        "--report", action="store_true", help="write the report of the comparisons that are there, as the last job does"
    )
    action.add_argument("--path", action="store_true", help="print where the workflow file lies, for Snakemake itself")


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing of a study, says how it stands, or reports what it found.

    Raises:
        SalstmError: if the study cannot be run here, before anything is started; or at the end if a job failed.
    """
    from nnunetv2_salstm.study.check import check_study
    from nnunetv2_salstm.study.graph import jobs_of
    from nnunetv2_salstm.study.schema import read_study
    from nnunetv2_salstm.study.workflow import SNAKEFILE

    if arguments.path:
        print(SNAKEFILE)
        return
    if arguments.study is None:
        raise SalstmError("a study file is needed, e.g. nnUNetv2_salstm study STUDY.yaml --dry-run")
    study = read_study(arguments.study)
    jobs = jobs_of(study)
    if arguments.status:
        _print_status(study, jobs)
    elif arguments.report:
        from nnunetv2_salstm.commands.study_report import write_report

        write_report(study, jobs)
    else:
        check_study(study, jobs)
        if arguments.dry_run:
            _print_commands(jobs)
        else:
            _launch(study, arguments)


def _launch(study: "Study", arguments: argparse.Namespace) -> None:
    from nnunetv2_salstm.study.check import check_executor, check_folder
    from nnunetv2_salstm.study.jobs import study_folder
    from nnunetv2_salstm.study.locks import gpus_of_this_machine, holder
    from nnunetv2_salstm.study.workflow import SNAKEFILE, launch_lock

    check_executor(study, arguments.executor)
    check_folder(study)
    if who := holder(launch_lock(study)):
        raise SalstmError(
            f"the study {study.name} is already run by {who}; see how it stands with --status, or end that process "
            "first (nothing has to be unlocked after a crash: the lock ends with its process)"
        )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)]
    command += ["--configfile", str(study.file.resolve()), *SNAKEMAKE]
    if arguments.executor == "slurm":
        command += ["--executor", "slurm", "--jobs", str(arguments.jobs or study.slurm.parallel)]
        # Without accounts Slurm forgets jobs minutes after they have ended.
        accounts = shutil.which("sacct")
        if accounts is None or subprocess.run([accounts, "-X", "-n"], capture_output=True).returncode:
            command += ["--slurm-status-command", "squeue"]
    else:
        gpus = len(gpus_of_this_machine()) if study.device == "cuda" else 0
        command += ["--cores", str(arguments.jobs or max(1, gpus)), "--resources", f"gpu={gpus}"]
    command += arguments.passed_on
    process = subprocess.Popen(command, cwd=study_folder(study.name))
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # Snakemake has got the signal, too, and ends its jobs.
        process.wait()
        raise
    if status:
        raise SalstmError(
            f"not everything is finished (Snakemake ended with status {status}, see above); what failed and why: "
            f"nnUNetv2_salstm study {study.file} --status; run it again to go on"
        )


def _print_commands(jobs: "Sequence[Job]") -> None:
    from nnunetv2_salstm.study.graph import unfinished
    from nnunetv2_salstm.study.locks import holder

    left = unfinished(jobs)
    for job in jobs:
        if job.name in left:
            # What runs already must not be started again by who pastes these lines.
            who = holder(job.lock)
            print(f"# {job.name}")
            print(f"{f'# runs already, by {who}: ' if who else ''}{shlex.join(job.command())}")
    if not left:
        print("# All jobs are finished.")


def _print_status(study: "Study", jobs: "Sequence[Job]") -> None:
    import pandas

    from nnunetv2_salstm.evaluation.runs import TrainingLog
    from nnunetv2_salstm.reporting.tables import Table, markdown_table
    from nnunetv2_salstm.study.jobs import Train
    from nnunetv2_salstm.study.status import status_of

    logs = {job.name: TrainingLog.read(job.folder) for job in jobs if isinstance(job, Train)}
    status = status_of(study, jobs, {name: list(log.epoch_seconds.values()) for name, log in logs.items()})
    counts = pandas.DataFrame(status.counts).T.rename_axis("job").reset_index()
    print(markdown_table(Table(counts)))
    for sentence in status.running:
        print(f"\nrunning: {sentence}")
    for what, lines in status.failed.items():
        print("\n".join([f"\n{what}", *(f"    {line}" for line in lines)]))
    print(f"\n{status.left}")
