"""Locks that a process and what it starts hold: the system gives them back when the last of these has ended.

They are flock's, so that a crash leaves nothing to remove. On a network file system they hold between machines where it
is mounted with locks (NFS since version 4, Lustre with the option flock).
"""

import fcntl
import getpass
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError

# Seconds between two looks at what others hold.
PATIENCE = 2.0


class Held(Exception):
    """Others hold the lock; says who."""


@contextmanager
def hold(file: Path, wait: bool = False) -> Iterator[int]:
    """Holds a lock, and yields its file descriptor: processes that inherit it hold the lock, too.

    Args:
        file: of the lock, made if it is not there.
        wait: for others to give it back.

    Raises:
        Held: if others hold it and it is not waited for.
        SalstmError: if it is another user's alone, or the file system knows no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        raise SalstmError(f"{file} belongs to another user; ask {file.owner()} for the right to write to it") from None
    try:
        # For other users, whatever the umask takes from them; only the owner may, and not on every file system.
        with suppress(OSError):
            os.fchmod(descriptor, 0o666)
        # Who looks at a lock holds it for an instant.
        looks = 1 if wait else 5
        while not _try(descriptor, file, fcntl.LOCK_EX):
            looks -= not wait
            if not looks:
                raise Held(file.read_text().strip() or "an unknown process")
            time.sleep(PATIENCE if wait else 0.1)
        os.truncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M")
        job = f", job {os.environ['SLURM_JOB_ID']} of Slurm" if "SLURM_JOB_ID" in os.environ else ""
        os.pwrite(
            descriptor,
            f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}{job}, since {since}".encode(),
            0,
        )
        yield descriptor
    finally:
        os.close(descriptor)


def holder(file: Path) -> str | None:
    """Returns who holds a lock, None if nobody does."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _try(descriptor, file, fcntl.LOCK_SH) else file.read_text().strip() or "an unknown process"
    finally:
        os.close(descriptor)


def _try(descriptor: int, file: Path, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise SalstmError(f"{file} cannot be locked ({error.strerror}); its file system must know flock") from None
    return True


def gpus_of_this_machine() -> tuple[str, ...]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = (name.strip() for name in visible.split(","))
        # As CUDA reads it: what follows a number below 0 does not count.
        return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))
    return tuple(_nvidia_smi("--query-gpu=index"))


@contextmanager
def hold_gpus(number: int) -> Iterator[tuple[str, list[int]]]:
    """Holds so many GPUs; yields them as CUDA_VISIBLE_DEVICES names them, and the descriptors of their locks.

    Waits until as many are free: not held by another job on this machine, whosever it is, nor computing for a program
    that knows no locks of ours.
    """
    if number == 0:
        yield "", []
        return
    folder = Path(tempfile.gettempdir()) / "nnunetv2_salstm_gpus"
    folder.mkdir(exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o777)
    waits = False
    while True:
        with ExitStack() as held:
            found: dict[str, int] = {}
            # One chooses at a time, or two that want two GPUs each could both get one, for ever.
            with hold(folder / "choosing", wait=True):
                visible = gpus_of_this_machine()
                for gpu in visible if len(visible) <= number else _not_computing(visible):
                    if len(found) < number:
                        with suppress(Held):
                            found[gpu] = held.enter_context(hold(folder / _identity(gpu)))
            if len(found) == number:
                yield ",".join(found), list(found.values())
                return
        if not waits:
            print(f"waits for {number - len(found)} more of the {len(visible)} GPUs {', '.join(visible)}", flush=True)
            waits = True
        time.sleep(PATIENCE)


def _identity(gpu: str) -> str:
    """Returns the name of a GPU that is the same in every job: where Slurm hides GPUs, each job's first is number 0."""
    found = _nvidia_smi("--query-gpu=uuid", "-i", gpu)
    return found[0] if found else gpu


def _not_computing(gpus: Sequence[str]) -> list[str]:
    busy = set(_nvidia_smi("--query-compute-apps=gpu_uuid"))
    return [gpu for gpu in gpus if _identity(gpu) not in busy]


def _nvidia_smi(*query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", *query, "--format=csv,noheader"], capture_output=True, text=True)
    return found.stdout.split() if found.returncode == 0 else []
