"""Runs one job of a study, as the workflow starts it: python -m nnunetv2_salstm.study.run STUDY.yaml JOB [--no-wait]

What the job is, is looked up when it starts: a training that was interrupted goes on, and what others have finished in
the meantime is not done again.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.jobs import Job, jobs_of
from nnunetv2_salstm.study.locks import Held, hold_gpus
from nnunetv2_salstm.study.schema import read_study

# Seconds from being told to end to being killed; Slurm's own patience is longer.
GRACE = 10.0
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
        with job.record.held(wait) as lock:
            return _run(job, lock)
    except Held as error:
        print(f"{job.name} is already run by {error}; run the study again when it has ended", file=sys.stderr)
        return 1
    except (SalstmError, FileNotFoundError) as error:
        # Also a command that is not in this environment.
        print(f"{job.name}: {error}", file=sys.stderr)
        return 1


def _run(job: Job, lock: int) -> int:
    record = job.record
    if job.missing() is None:
        return 0
    job.prepare()
    with hold_gpus(job.resources.gpus) as (gpus, locks):
        command = job.command()
        record.start(shlex.join(command))
        print(f"{job.name}: {shlex.join(command)}\n", end="", flush=True)
        # The programs of this environment first, whether or not it is activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        variables = {"PATH": path, **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})}
        start = time.monotonic()
        with record.log.open("a") as log, _process(command, variables, log, [lock, *locks]) as process:
            status = process.wait()
        record.end(status, time.monotonic() - start)
    reason = job.missing() if status == 0 else f"it ended with status {status}"
    if reason:
        print("\n".join([f"{job.name}: {reason}: {shlex.join(command)}", *record.said(LINES)]), file=sys.stderr)
        print(f"All it printed: {record.log}", file=sys.stderr)
    return 1 if reason else 0


@contextmanager
def _process(
    command: list[str], variables: dict[str, str], log: IO[str], locks: list[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command in a process group of its own that is gone at the end; it holds the locks while it lives."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
        pass_fds=locks,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # nnU-Net's workers outlive it where it is killed.
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


def main() -> int:
    """Runs the job that the arguments name."""

    endings = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    def end(number: int, _frame: object) -> None:
        # Once: the second signal must not cut short what the first one ends.
        for ending in endings:
            signal.signal(ending, signal.SIG_IGN)
        sys.exit(128 + number)

    for ending in endings:
        signal.signal(ending, end)
    study_file, name, *options = sys.argv[1:]
    jobs = {job.name: job for job in jobs_of(read_study(Path(study_file)))}
    return run_job(jobs[name], wait="--no-wait" not in options)


if __name__ == "__main__":
    sys.exit(main())
