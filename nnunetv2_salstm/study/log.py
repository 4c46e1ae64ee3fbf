"""The log of a job: what its commands printed, and how each attempt ended. It never says what is finished."""

import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_STARTED, _ENDED = "### started ", "### ended with status "


@dataclass(frozen=True)
class Log:
    """A log file, to which every attempt is appended."""

    file: Path

    def start(self, command: str) -> None:
        """Writes down that a command starts."""
        self._write(f"{_STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}: {command}\n")

    def end(self, status: int, seconds: float) -> None:
        """Writes down how it ended."""
        self._write(f"\n{_ENDED}{status} after {seconds:.1f} s\n")

    def _write(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(text)

    def _lines(self) -> list[str]:
        return self.file.read_text(errors="replace").splitlines() if self.file.is_file() else []

    def said(self, number: int) -> list[str]:
        """Returns the last lines that a command printed."""
        return [line for line in self._lines() if line.strip() and not line.startswith((_STARTED, _ENDED))][-number:]

    def status(self) -> int | None:
        """Returns how the last attempt ended, None if it did not or there was none."""
        marks = [line for line in self._lines() if line.startswith((_STARTED, _ENDED))]
        return int(marks[-1].split()[4]) if marks and marks[-1].startswith(_ENDED) else None

    def was_cut_short(self) -> bool:
        """Whether there was an attempt, and the last one did not end well."""
        return self.file.is_file() and self.status() != 0

    def seconds(self) -> float:
        """Returns how long the attempts took that ended."""
        return sum(float(s) for line in self._lines() for s in re.findall(rf"^{_ENDED}-?\d+ after (\S+) s$", line))
