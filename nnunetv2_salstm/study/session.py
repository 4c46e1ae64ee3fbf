"""Runs a study, prints its commands or its state, or writes its report, from the command line's arguments."""

import argparse
import shlex
from collections.abc import Sequence

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.check import check_executor, check_folder, check_study
from nnunetv2_salstm.study.launch import run_here, run_locally, submit_to_slurm
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.status import report
from nnunetv2_salstm.study.study import read_study
from nnunetv2_salstm.study.tasks import Task, expand


def run_matrix(arguments: argparse.Namespace) -> None:
    """Runs a study, prints its commands or its state, or writes its report.

    Raises:
        SalstmError: if the study cannot be run here; or at the end if a task failed.
    """
    executor = arguments.executor or "local"
    if arguments.action != "run" and (arguments.executor or arguments.jobs or arguments.dry_run):
        raise SalstmError(f"--executor, --jobs and --dry-run are for run, not for {arguments.action}; leave them out")
    if arguments.jobs and executor != "local":
        raise SalstmError(
            f"--jobs is for --executor local, got {executor}; for slurm set parallel below slurm in the study file"
        )
    study = read_study(arguments.study)
    folder = Folder(study.name)
    tasks = expand(study, folder.study)
    if arguments.action == "status":
        print(report(tasks, folder))
        return
    if arguments.action == "report":
        # Only this draws.
        from nnunetv2_salstm.study.report import write_report

        write_report(study, tasks)
        return
    check_study(study, tasks)
    if arguments.dry_run:
        print(script(tasks, folder))
        return
    check_executor(study, executor)
    check_folder(folder)
    if executor == "slurm":
        submit_to_slurm(study, tasks, folder)
    elif executor == "debug":
        run_here(tasks, folder)
    else:
        run_locally(study, tasks, folder, arguments.jobs)


def script(tasks: Sequence[Task], folder: Folder) -> str:
    """Returns the commands of the tasks that are not finished, in an order that works."""
    states = folder.states(tasks)
    lines = []
    for task in tasks:
        state = states[task.name]
        if state.name == "finished":
            continue
        # What runs already must not be started again by who pastes these lines.
        comment = "# runs already: " if state.name in ("running", "queued") else ""
        lines += [f"# {task.name}", f"{comment}{shlex.join(task.command())}"]
    return "\n".join(lines) or "# All tasks are finished."
