"""Attempts at a task: files that are its lock, its record and, behind --c, its history.

Attempt n is a file of that number, made in one step that fails if it is there. It may only be made when attempt n - 1
has ended, or its processes are known to be dead. So one attempt at most is under way, however many start it, without a
file that has to be removed at the right moment. It works on network file systems.
"""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nnunetv2_salstm.host.files import make_once, written_whole

# How an attempt ends that was stopped so that it goes on in another job: neither done nor failed.
STOPPED = "stopped"


class Held(Exception):
    """Another process is at the task; says which."""


@dataclass(frozen=True)
class Process:
    """A process of a machine; a later one of the same number is another one."""

    number: int
    started: str

    @classmethod
    def of(cls, number: int) -> "Process | None":
        """Returns the process of this number on this machine, None if there is none."""
        try:
            # Behind the name, in brackets, which may hold spaces: the state, and as the 20th the start.
            state, *values = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            return None if state == "Z" else cls(number, values[18])
        except (FileNotFoundError, ProcessLookupError):
            return None


@dataclass(frozen=True)
class Attempt:
    """An attempt at a task.

    Attributes:
        file: that records it.
        host, user: where it runs and for whom.
        processes: the one that watches it, and its command.
        job: of Slurm, if it runs in one.
        gpus: on which it runs, where the launcher chose them.
        command: as one line.
        started, ended: in seconds since 1970; None until it has ended.
        status: the command's exit status, `STOPPED`, or None until it has ended.
    """

    file: Path
    host: str
    user: str
    processes: tuple[Process, ...]
    job: str | None
    gpus: tuple[str, ...]
    command: str
    started: float
    ended: float | None = None
    status: int | str | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken, so far if it has not ended."""
        return (time.time() if self.ended is None else self.ended) - self.started

    def is_under_way(self, listed_jobs: "Jobs") -> bool:
        """Whether one of its processes may still run: unless it is known that none does."""
        if self.status is not None:
            return False
        if self.host == socket.gethostname():
            return any(Process.of(process.number) == process for process in self.processes)
        if self.job is None or self.job in listed_jobs:
            return True
        return not listed_jobs.known or (self.user != getpass.getuser() and listed_jobs.are_private)

    def write(self) -> None:
        """Replaces the record by this one."""
        with written_whole(self.file) as unfinished:
            unfinished.write_text(self._text())

    def end(self, status: int | str) -> "Attempt":
        """Records how the attempt ended; another can be made then."""
        ended = replace(self, ended=time.time(), status=status)
        ended.write()
        return ended

    def with_command(self, command: str, process: Process) -> "Attempt":
        """Returns the attempt with its command and the command's process."""
        return replace(self, command=command, processes=(*self.processes, process))

    def make(self) -> None:
        """Makes the file, whole, if there is none.

        Raises:
            FileExistsError: if there is one.
        """
        make_once(self.file, self._text())

    def _text(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if key != "file"}, indent=1)

    @classmethod
    def read(cls, file: Path) -> "Attempt":
        """Reads a record."""
        values = json.loads(file.read_text())
        processes = tuple(Process(**process) for process in values.pop("processes"))
        return cls(file, processes=processes, gpus=tuple(values.pop("gpus")), **values)


@dataclass
class Jobs:
    """The jobs that Slurm has queued or runs, of those that are asked for.

    Attributes:
        known: whether there is a Slurm to ask.
    """

    known: bool = field(default_factory=lambda: shutil.which("squeue") is not None)
    _listed: set[str] | None = None

    @cached_property
    def are_private(self) -> bool:
        """Whether Slurm hides the jobs of other users, so that theirs may run without being listed."""
        found = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True)
        private = re.search(r"^PrivateData\s*=\s*(.*)$", found.stdout, re.MULTILINE)
        return private is not None and re.search(r"\b(jobs|all)\b", private[1]) is not None

    def __contains__(self, job: str) -> bool:
        if not self.known:
            return False
        if self._listed is None:
            # -r names the tasks of an array one by one.
            found = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True)
            self._listed = set(found.stdout.split())
        return job in self._listed


def attempts_in(folder: Path) -> list[Attempt]:
    """Returns the attempts in the folder of a task, the first first."""
    files = sorted(folder.glob("attempt_*.json"), key=_number)
    return [Attempt.read(file) for file in files]


def begin(folder: Path, gpus: Sequence[str] = ()) -> Attempt:
    """Begins an attempt at the task of a folder and returns it.

    Raises:
        Held: if another one is under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = attempts_in(folder)
    number = 0
    job = slurm_job()
    if before:
        last = before[-1]
        # Slurm runs a requeued job again when its first run is over.
        if last.is_under_way(Jobs()) and not (job is not None and last.job == job):
            raise Held(
                f"it runs for {last.user} on {last.host}{f', job {last.job}' if last.job else ''}; "
                f"if it is known to be dead, remove {last.file}"
            )
        number = _number(last.file) + 1
    own = Process.of(os.getpid())
    assert own is not None
    attempt = Attempt(
        folder / f"attempt_{number}.json", socket.gethostname(), getpass.getuser(), (own,), job, tuple(gpus), "",
        time.time(),
    )  # fmt: skip
    try:
        attempt.make()
    except FileExistsError:
        raise Held("another process has just begun it") from None
    return attempt


def slurm_job() -> str | None:
    """Returns the Slurm job that this process runs in, as squeue calls it."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def _number(file: Path) -> int:
    return int(file.stem.partition("_")[2])
