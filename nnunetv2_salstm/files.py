"""Files and folders that are never left half-written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path for a file or folder that becomes `path` when it is complete; an interrupted one is removed."""
    unfinished = path.with_name(f"unfinished.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process left behind.
    _remove(unfinished)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
