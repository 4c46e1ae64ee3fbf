"""Copies of published nnU-Net releases, which tests may change; the installed one must stay as it is."""

import functools
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import nnunetv2
import pytest


@functools.cache
def release(base: Path, wanted: str) -> Path:
    """Returns a folder with the package nnunetv2 and its metadata, as published; fetched unless it is installed."""
    folder = base / f"nnunetv2-{wanted}"
    if version("nnunetv2") == wanted:
        installed = distribution("nnunetv2")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(nnunetv2.__file__).parent, folder / "nnunetv2", ignore=ignore)
        metadata = folder / f"nnunetv2-{wanted}.dist-info"
        metadata.mkdir()
        for name in ("METADATA", "entry_points.txt"):
            (metadata / name).write_text(installed.read_text(name), encoding="utf-8")
        return folder
    archive = fetch(base / "fetched", wanted)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    else:
        with tarfile.open(archive) as source:
            # As filter="data", which Python before 3.10.12 and 3.11.4 does not know.
            source.extraction_filter = getattr(tarfile, "data_filter", None)
            source.extractall(base)
    return folder


def fetch(folder: Path, wanted: str) -> Path:
    """Downloads a release; fails the test where that cannot be done, as it has then shown nothing."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, f"nnunetv2=={wanted}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.fail(f"nnU-Net {wanted} cannot be fetched: {result.stderr.strip().splitlines()[-1]}")
    (archive,) = folder.glob(f"nnunetv2-{wanted}[.-]*")
    return archive


def contents(folder: Path) -> dict[str, bytes]:
    """Returns what is in the files of a folder, byte code aside."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
