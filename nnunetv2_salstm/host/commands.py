"""Running nnU-Net's commands: as processes that can be stopped with all that they start."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError

# Seconds between two looks at a running command, and that a stopped one has for its last words after each signal.
INTERVAL = 0.2
PATIENCE = 4.0
# With less room than this, in bytes, a command failed because of it.
FULL_DISK = 10_000_000
# The commands' own functions, as their scripts may be in no folder that we know.
_CALL = (
    "import sys; from importlib.metadata import entry_points; sys.argv.pop(0); "
    "(command,) = entry_points(group='console_scripts', name=sys.argv[0]); sys.exit(command.load()())"
)


def on_device(device: str) -> tuple[str, dict[str, str]]:
    """Returns what nnU-Net calls a device, and the environment that makes it this one.

    Its commands and trainers take the first GPU that they see.

    Args:
        device: "cpu", "cuda", "cuda:N" or "mps".
    """
    kind, _, index = device.partition(":")
    if not index:
        return kind, {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return kind, {"CUDA_VISIBLE_DEVICES": visible.split(",")[int(index)] if visible else index}


def patient_threads(device: str) -> dict[str, str]:
    """Returns the environment in which commands on a CPU do not slow each other down, unless the user says otherwise.

    nnU-Net takes all cores for each of them, and threads that spin while they wait keep others from working.

    Args:
        device: "cpu" or another.
    """
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")} if device == "cpu" else {}


def run_nnunet(
    name: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Runs a command of nnU-Net, e.g. "nnUNetv2_train", to its end.

    Args:
        name: of the command.
        arguments: of it.
        log, environment, while_waiting: of `run_process`.

    Raises:
        SalstmError: if it failed.
        KeyboardInterrupt: also when this process is told to terminate.
    """
    command = [sys.executable, "-c", _CALL, name, *arguments]
    if status := run_process(command, log, environment, while_waiting):
        raise _failed(name, status, log)


def run_process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
    inherited: Sequence[int] = (),
) -> int:
    """Runs a command to its end and returns its status; when interrupted, it ends with all processes that it started.

    Args:
        command: the program and its arguments.
        log: file that its output is appended to.
        environment: variables in addition to those of this process.
        while_waiting: called every now and then.
        inherited: descriptors that it and what it starts keep open, such as those of locks.

    Raises:
        KeyboardInterrupt: also when this process is told to terminate.
    """
    with log.open("ab") as output, _interrupted_by_termination():
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=inherited,
            start_new_session=True,
        )
        try:
            while process.returncode is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(INTERVAL)
                while_waiting()
        except BaseException:
            _stop(process)
            raise
        if process.returncode:
            _stop(process)  # its workers
        return process.returncode


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all of its group, with more force if they take their time or the user insists."""
    if os.name == "nt":  # no groups; Ctrl-C reaches every process of a console there
        process.kill()
        process.wait()
        return
    for force in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, force)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                process.poll()  # a process that has ended is there until somebody asks for its status
                os.killpg(process.pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:  # none is left
            break
        except KeyboardInterrupt:
            continue
    process.wait()


@contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Makes the end of the terminal or of the job an interrupt, as the command would go on without this process."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Windows has no SIGHUP.
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(name: str, status: int, log: Path) -> SalstmError:
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    room = "the disk is full, free some room; " if shutil.disk_usage(log.parent).free < FULL_DISK else ""
    return SalstmError(f"{name} failed with status {status}: {last}; {room}its output is in {log}")
