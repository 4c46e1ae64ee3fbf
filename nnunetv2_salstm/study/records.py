"""What is written down about a job: its lock, and a log of every attempt at it. It never says what is finished."""

import re
import socket
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_salstm.study.locks import hold, holder

_STARTED, _ENDED = "### started ", "### ended with status "


@dataclass(frozen=True)
class Record:
    """The files of a job.

    Attributes:
        folder: of all jobs, of all studies.
        name: of the job.
        exclusive: what only one job at a time may do.
    """

    folder: Path
    name: str
    exclusive: str

    @property
    def log(self) -> Path:
        """What its command printed."""
        return self.folder / f"{self.name}.log"

    @property
    def _lock(self) -> Path:
        return self.folder / f"{self.exclusive}.lock"

    def held(self, wait: bool) -> AbstractContextManager[int]:
        """Holds the job; see `locks.hold`."""
        return hold(self._lock, wait)

    def holder(self) -> str | None:
        """Returns who is at the job, None if nobody is."""
        return holder(self._lock)

    def start(self, command: str) -> None:
        """Writes down that a command starts."""
        self._write(f"{_STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}: {command}\n")

    def end(self, status: int, seconds: float) -> None:
        """Writes down how it ended."""
        self._write(f"\n{_ENDED}{status} after {seconds:.1f} s\n")

    def _write(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    def lines(self) -> list[str]:
        """Returns the lines of the log, none if there is no log."""
        return self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []

    def said(self, number: int) -> list[str]:
        """Returns the last lines that the command printed."""
        return [line for line in self.lines() if line.strip() and not line.startswith((_STARTED, _ENDED))][-number:]

    def status(self) -> int | None:
        """Returns how the last attempt ended, None if it did not or there was none."""
        marks = [line for line in self.lines() if line.startswith((_STARTED, _ENDED))]
        match = re.match(rf"{_ENDED}(-?\d+)", marks[-1]) if marks else None
        return int(match[1]) if match else None

    def was_cut_short(self) -> bool:
        """Whether there was an attempt, and the last one did not end well."""
        return self.log.is_file() and self.status() != 0

    def seconds(self) -> float:
        """Returns how long the attempts took that ended."""
        return sum(float(s) for line in self.lines() for s in re.findall(rf"^{_ENDED}-?\d+ after (\S+) s$", line))
