"""The folder a demo writes to: whose it is, and that nothing in it is half-written."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json, write_text

SETTINGS_FILE = "demo.json"
# What writing fails with when disk or permissions change under a run; other errors are none of the user's doing.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def claim_folder(folder: Path, settings: dict[str, Any], disk: int) -> None:
    """Makes `folder` the one of a run with these settings, or makes sure that it is.

    Args:
        folder: need not exist.
        settings: JSON values, written to a file in the folder.
        disk: bytes that a new run needs.

    Raises:
        SalstmError: if the folder holds something else or a run with other settings, cannot be written to, or has not
            enough room.
    """
    file = folder / SETTINGS_FILE
    try:
        if file.is_file():
            found = read_json(file, "a demo's settings")
            names = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
            if names:
                there, here = ({name: values.get(name) for name in names} for values in (found, settings))
                raise SalstmError(
                    f"{folder} was made with other settings: {there} there, {here} now; "
                    "delete it, or choose another folder with -o"
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise SalstmError(f"{folder} holds something else; choose a new or empty folder with -o")
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < disk:
            raise SalstmError(
                f"{folder} has room for {free / 1e6:.0f} MB but the demo needs {disk / 1e6:.0f} MB; "
                "free some room, or choose a folder on another disk with -o"
            )
        write_text(file, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise _cannot_write(error.filename or folder, error.strerror) from error


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what writing into `folder` fails with into a SalstmError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _STORAGE:
            raise _cannot_write(error.filename or folder, error.strerror) from error
        raise


def _cannot_write(place: str | Path, reason: str | None) -> SalstmError:
    return SalstmError(f"cannot write to {place}: {reason}; free some room, or choose another folder with -o")
