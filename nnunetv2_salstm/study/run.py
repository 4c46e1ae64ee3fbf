"""Runs one job of a study, as the workflow starts it: python -m nnunetv2_salstm.study.run STUDY.yaml JOB [--no-wait]

What the job is, is looked up when it starts: a training that was interrupted goes on, and what others have finished in
the meantime is not done again.
"""

import os
import shlex
import sys
import time
from pathlib import Path

from nnunetv2_salstm.host.commands import patient_threads, run_process
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.graph import jobs_of
from nnunetv2_salstm.study.jobs import Job
from nnunetv2_salstm.study.locks import Held, hold, hold_gpus, holder
from nnunetv2_salstm.study.schema import read_study

# Lines of the log that are printed when a job fails.
LINES = 5


def run_job(job: Job, wait: bool) -> int:
    """Runs what is missing of a job, alone, and returns the exit status.

    Args:
        job: of a study.
        wait: until others who are at it have ended; else that is a failure. It makes no sense for a job of Slurm, whose
            GPU would wait, too.
    """
    try:
        if wait and (who := holder(job.lock)):
            print(f"{job.name} waits for {who}\n", end="", flush=True)
        with hold(job.lock, wait) as lock:
            return _run(job, lock)
    except Held as error:
        print(f"{job.name} is already run by {error}; run the study again when it has ended", file=sys.stderr)
    except (SalstmError, FileNotFoundError) as error:
        # Also a command that is not in this environment.
        print(f"{job.name}: {error}", file=sys.stderr)
    return 1


def _run(job: Job, lock: int) -> int:
    if job.missing() is None:
        return 0
    job.prepare()
    with hold_gpus(job.resources.gpus) as (gpus, locks):
        command = job.command()
        job.log.start(shlex.join(command))
        print(f"{job.name}: {shlex.join(command)}\n", end="", flush=True)
        # The programs of this environment first, whether or not it is activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        visible = {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
        variables = {"PATH": path, **visible, **patient_threads(job.study.device)}
        start = time.monotonic()
        status = run_process(command, job.log.file, variables, inherited=[lock, *locks])
        job.log.end(status, time.monotonic() - start)
    reason = job.missing() if status == 0 else f"it ended with status {status}"
    if reason:
        print("\n".join([f"{job.name}: {reason}: {shlex.join(command)}", *job.log.said(LINES)]), file=sys.stderr)
        print(f"All it printed: {job.log.file}", file=sys.stderr)
    return 1 if reason else 0


def main() -> int:
    """Runs the job that the arguments name."""
    study_file, name, *options = sys.argv[1:]
    (job,) = (job for job in jobs_of(read_study(Path(study_file))) if job.name == name)
    try:
        return run_job(job, wait="--no-wait" not in options)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
