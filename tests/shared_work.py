"""Work that several test processes need and one of them does."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def shared_folder(base: Path) -> Path:
    """Returns the folder that the processes of this run of pytest share, above the `base` of this one."""
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Returns a folder that `make` fills, in whichever process comes first; the others wait."""
    made = folder.with_name(f"{folder.name}.made")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
