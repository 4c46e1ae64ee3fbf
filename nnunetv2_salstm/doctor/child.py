"""Running what may fail or crash in another process, which sees what nnU-Net's commands see.

A program in the folder `programs` gets the name of a file for its answers, one JSON object a line, before its own
arguments. It stands alone: this package's import would already change nnUNet_extTrainer.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A first import of torch and nnU-Net from a network drive takes minutes.
SECONDS = 600
# Where `python -c` would look first, the working directory, nnU-Net's commands do not look.
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); sys.argv[:] = sys.argv[2:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Answer:
    """What a program said.

    Attributes:
        events: its JSON objects, also those before a crash.
        failure: how it ended if not well, else empty.
    """

    events: list[dict[str, Any]]
    failure: str


def run_program(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Answer:
    """Runs a program of the folder `programs`.

    Args:
        name: of its file, without the suffix.
        arguments: for it.
        environment: its variables, by default those of this process.
    """
    program = Path(__file__).parent / "programs" / f"{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers"
        answers.touch()
        command = [sys.executable, "-c", _START, json.dumps(sys.path), str(program), str(answers), *arguments]
        failure = ""
        try:
            result = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            failure = f"no answer within {SECONDS} s"
        else:
            if result.returncode:
                failure = _describe_failure(result)
        events = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    return Answer(events, failure)


def _describe_failure(result: subprocess.CompletedProcess[bytes]) -> str:
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    said = f": {lines[-1].strip()}" if lines else ""
    if os.name != "nt" and result.returncode < 0:
        return f"the process was ended by {signal.Signals(-result.returncode).name}{said}"
    return f"the process ended with status {result.returncode}{said}"
