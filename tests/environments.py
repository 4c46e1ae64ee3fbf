"""Throw-away virtual environments in which this package is really installed.

They see the heavy packages of the running environment, but not the running environment's own copy of this package.
"""

import functools
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from places import ROOT
from shared_work import made_once, shared_folder

VARIABLE = "nnUNet_extTrainer"


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    python: Path
    site_packages: Path

    @property
    def hook(self) -> Path:
        return self.site_packages / "nnunetv2_salstm_autoload.pth"

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs this environment's Python, in a folder that has nothing to do with this package."""
        command = [self.python, *arguments]
        there = self.python.parent
        return subprocess.run(command, cwd=there, env=clean_variables() | variables, capture_output=True, text=True)

    def output(self, code: str, **variables: str) -> str:
        """Returns what a line of Python prints; it must print nothing on stderr."""
        result = self.run("-c", code, **variables)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        return result.stdout.strip()

    def pip(self, *arguments: str | Path) -> None:
        # Without an index: nothing may be missing here.
        result = self.run("-m", "pip", *arguments, PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
        assert result.returncode == 0, result.stdout + result.stderr

    def files(self) -> set[Path]:
        return set(self.python.parents[1].rglob("*"))


def clean_variables() -> dict[str, str]:
    """Returns the environment variables without those that steer Python, nnU-Net or this package."""
    ours = ("PYTHON", "NNUNET", "VIRTUAL_ENV", "__PYVENV")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}


@functools.cache
def shared_packages(base: Path) -> Path:
    """Makes a folder of links to what the running environment has installed, except this package and path files."""
    folder = base / "shared_packages"
    folder.mkdir()
    for entry in map(Path, sys.path):
        if entry.name in ("site-packages", "dist-packages") and entry.is_dir():
            for package in entry.iterdir():
                link = folder / package.name
                ours = package.name.startswith("nnunetv2_salstm")
                if not (ours or package.suffix == ".pth" or package.name == "__pycache__" or link.exists()):
                    link.symlink_to(package, target_is_directory=package.is_dir())
    return folder


def make_environment(base: Path, name: str) -> Environment:
    """Makes an environment without this package; pip is among the shared packages."""
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(base / name)
    python = Path(builder.ensure_directories(base / name).env_exe)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    environment = Environment(python, Path(Environment(python, base).output(where)))
    (environment.site_packages / "shared.pth").write_text(f"{shared_packages(base)}\n", encoding="utf-8")
    assert environment.output("from importlib.util import find_spec; print(find_spec('nnunetv2_salstm'))") == "None"
    return environment


@functools.cache
def copy_of_checkout(base: Path) -> Path:
    """Copies what the project is made of; building and installing must leave the checkout alone."""
    copy = base / "checkout"
    copy.mkdir()
    for folder in ("nnunetv2_salstm", "trainers", "patches", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    return copy


def build_distributions(base: Path) -> tuple[Path, Path]:
    """Builds the source distribution, and the wheel from that, once for all test processes; returns both."""

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy_of_checkout(folder)]
        result = subprocess.run(command, cwd=folder, env=clean_variables(), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    out = made_once(shared_folder(base) / "dist", build)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def install(environment: Environment, kind: str, base: Path) -> None:
    """Installs this package, as a 'wheel' or 'editable'."""
    what = {"wheel": [build_distributions(base)[1]], "editable": ["--editable", copy_of_checkout(base)]}[kind]
    environment.pip("install", "--no-deps", "--no-build-isolation", *what)


@functools.cache
def installed(base: Path, kind: str) -> Environment:
    """Returns an environment in which this package is installed; its path is an odd one."""
    environment = make_environment(base, f"{kind} installed, thé 2nd")
    install(environment, kind, base)
    return environment
