"""What runs one task: in a job of submitit, or in this process."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_salstm.study.attempts import STOPPED, Attempt, Process, attempts_in, begin
from nnunetv2_salstm.study.state import why_unfinished
from nnunetv2_salstm.study.tasks import Task

LOG = "log.txt"
# How long a command may take to end when it is told to.
PATIENCE = 10.0


class Failed(Exception):
    """A task's command failed."""


class Worker:
    """Runs a task's command; submitit keeps it in a file and calls it in a job.

    Args:
        task: to run.
        folder: of the task, for its attempts and its log.
        environment: variables that the command gets besides those of the job.
        gpus: on which it runs; none to leave the choice to Slurm or the user.
    """

    def __init__(self, task: Task, folder: Path, environment: Mapping[str, str], gpus: tuple[str, ...] = ()):
        self.task, self.folder, self.environment, self.gpus = task, folder, dict(environment), gpus
        self._attempt: Attempt | None = None
        self._command: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs the command, if the task is not finished already.

        Raises:
            Held: if another process is at the task.
            Failed: if the command fails.
        """
        before = attempts_in(self.folder)
        attempt = self._attempt = begin(self.folder, self.gpus)
        if why_unfinished(self.task, before[-1] if before else None) is None:
            # Since it was submitted: by another run, or by hand.
            attempt.end(0)
            return
        status: int | str = STOPPED
        try:
            self.task.prepare()
            words = self.task.command()
            line = shlex.join(words)
            with (self.folder / LOG).open("ab") as log:
                log.write(f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} {attempt.host}: {line}\n".encode())
                log.flush()
                self._command = subprocess.Popen(
                    words,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=self._environment(),
                    # Its workers can be ended together with it, and Ctrl-C in the launcher's terminal is not for it.
                    start_new_session=True,
                    preexec_fn=lambda: _record(attempt, line),
                )
            status = self._command.wait()
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._end_command()
            if self._command is not None:
                self._command.wait()
            self._end_attempt(status)
        if status:
            raise Failed(f"{line} ended with status {status}; its log is {self.folder / LOG}")
        if message := self.task.missing():
            raise Failed(f"{line} ended well, but {message}; its log is {self.folder / LOG}")

    def checkpoint(self) -> Any:
        """Stops the command when Slurm takes the job away, and returns what the requeued job runs."""
        from submitit.helpers import DelayedSubmission

        self._end_command()
        self._end_attempt(STOPPED)
        return DelayedSubmission(Worker(self.task, self.folder, self.environment, self.gpus))

    def _end_attempt(self, status: int | str) -> None:
        if self._attempt is not None:
            # As the command's process has recorded it.
            Attempt.read(self._attempt.file).end(status)

    def _environment(self) -> dict[str, str]:
        # The commands of this Python, which need not be on the path of a job.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return {**os.environ, **self.environment, **chosen, "PATH": path}

    def _end_command(self) -> None:
        """Ends the command and its workers, if they run."""
        command = self._command
        if command is None or command.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Not the command's own wait or poll: where a signal has interrupted them, they hold their lock.
            if Process.of(command.pid) is not None:
                os.killpg(command.pid, number)
            end = time.monotonic() + PATIENCE
            while Process.of(command.pid) is not None and time.monotonic() < end:
                time.sleep(0.05)


def _record(attempt: Attempt, line: str) -> None:
    """Records the command, in its process and before it runs: no command runs unrecorded, whatever is killed."""
    # Slurm sends its warning to all processes of a job; it is for the worker.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    process = Process.of(os.getpid())
    assert process is not None
    attempt.with_command(line, process).write()


def last_lines(log: Path, number: int) -> list[str]:
    """Returns the last lines of a log that are not empty, none if it is not there."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
    # Progress bars write over their line.
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-number:]
