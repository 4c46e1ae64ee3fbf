"""Which nnU-Net and which of our packages Python imports: the installed ones, or others that lie in the way."""

import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import nnunetv2_salstm
import nnunetv2_salstm_autoload
from nnunetv2_salstm.doctor.finding import Finding, note, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine

COMMAND = "nnUNetv2_train"
# Published on top of a copy of nnU-Net, under its name.
_FORKS = re.compile(r"Mamba|xLSTM|UxLSTM|LKMUNet|SwinUNETR|SegResNet|UNETR|LightMUNet|MedNeXt", re.IGNORECASE)
_OWN_ENVIRONMENT = "give this package an environment without it: pip install nnunetv2 nnunetv2-salstm"


def check_nnunet_copy(machine: Machine) -> Iterator[Finding]:
    """The nnunetv2 that Python imports must be an installed release of nnU-Net, not a fork or a folder in the way."""
    subject = "nnunetv2's folder"
    spec = find_spec("nnunetv2")
    if spec is None:
        yield wrong(subject, "nnunetv2 is not installed", "run: pip install nnunetv2")
        return
    if spec.origin is None:
        where = ", ".join(spec.submodule_search_locations or [])
        yield wrong(subject, f"{where} has no __init__.py: no nnU-Net", f"delete {where}, then: pip install nnunetv2")
        return
    folder = Path(spec.origin).parent
    owner = find_owner("nnunetv2", folder)
    if owner is None:
        installed = [f"{other.version} in {other.locate_file('')}" for other in distributions(name="nnunetv2")]
        text = (
            f"Python imports {folder}, which is not the installed nnU-Net ({', '.join(installed) or 'there is none'})"
        )
        yield wrong(subject, text, _get_out_of_the_way(folder))
    else:
        yield _describe_nnunet(subject, folder, owner)
    for other in find_copies("nnunetv2"):
        if other.resolve() != folder.resolve():
            yield note(subject, f"{other} is there too, hidden by {folder}")
    here = Path.cwd() / "nnunetv2"
    if (here / "__init__.py").is_file() and here.resolve() != folder.resolve():
        yield note(subject, f"{here} is imported instead by notebooks and python -m in this folder")


def check_own_copy(machine: Machine) -> Iterator[Finding]:
    """There must be one nnunetv2_salstm, and its start-up hook must be its own."""
    subject = "nnunetv2_salstm's folder"
    folder = Path(nnunetv2_salstm.__file__).parent
    hook = Path(nnunetv2_salstm_autoload.__file__)
    others = [str(other) for other in find_copies("nnunetv2_salstm") if other.resolve() != folder.resolve()]
    if others:
        todo = (
            f"take the folder of {' and '.join(others)} out of PYTHONPATH; or repeat pip uninstall nnunetv2-salstm "
            "until none is left, and install it again"
        )
        yield wrong(subject, f"Python imports {folder}, but there are also {', '.join(others)}", todo)
    elif hook.parent.resolve() != folder.parent.resolve():
        todo = f"delete {hook}, then: pip install --force-reinstall nnunetv2-salstm"
        yield wrong(subject, f"{folder} is started by another copy's {hook}", todo)
    else:
        yield ok(subject, str(folder))


def check_commands(machine: Machine) -> Iterator[Finding]:
    """The shell's nnUNetv2_train must be this environment's."""
    found = shutil.which(COMMAND)
    here = {Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))}
    if found is None:
        yield note(COMMAND, f"not on the PATH; it is in {' or '.join(map(str, sorted(here)))}")
    elif Path(found).parent in here or Path(found).resolve().parent in here or _is_run_here(Path(found)):
        yield ok(COMMAND, found)
    else:
        text = f"{found} belongs to another environment than {sys.prefix}, where this package is"
        yield wrong(COMMAND, text, "activate one environment, and install nnU-Net and this package into it")


def find_copies(package: str) -> list[Path]:
    """Returns the folders of a package in the folders where Python looks, in its order."""
    folders = (Path(entry or ".") / package for entry in sys.path)
    return list(dict.fromkeys(folder for folder in folders if (folder / "__init__.py").is_file()))


def find_owner(package: str, folder: Path) -> Distribution | None:
    """Returns the installed distribution that a package's folder belongs to, whatever its name."""
    names = dict.fromkeys([package, *packages_distributions().get(package, [])])
    for distribution in (found for name in names for found in distributions(name=name)):
        source = _editable_source(distribution)
        if source is not None:
            if source.resolve() in folder.resolve().parents:
                return distribution
        elif Path(str(distribution.locate_file(package))).resolve() == folder.resolve():
            return distribution
    return None


def _describe_nnunet(subject: str, folder: Path, owner: Distribution) -> Finding:
    trainers = folder / "training" / "nnUNetTrainer"
    foreign = sorted(file.stem for file in trainers.glob("*.py") if file.stem not in ("__init__", "nnUNetTrainer"))
    origin = _origin(owner)
    what = f"{owner.name} {owner.version} in {folder}{f', installed from {origin}' if origin else ''}"
    # A release has its networks in another package, and its trainers' variants in folders.
    if (folder / "nets").is_dir() or any(map(_FORKS.search, foreign)) or owner.name.lower() != "nnunetv2":
        signs = ", ".join(foreign[:3]) or str(folder / "nets")
        return wrong(subject, f"a fork under nnU-Net's name: {what}, with {signs}", _OWN_ENVIRONMENT)
    if foreign:
        return note(subject, f"{what}, with trainers that nnU-Net is not published with: {', '.join(foreign)}")
    return ok(subject, what)


def _origin(distribution: Distribution) -> str:
    return str(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))


def _editable_source(distribution: Distribution) -> Path | None:
    described = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not described.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlparse(described["url"]).path))


def _get_out_of_the_way(folder: Path) -> str:
    in_variable = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if folder.parent.resolve() in in_variable:
        return f"take {folder.parent} out of PYTHONPATH"
    if folder.parent.resolve() == Path.cwd().resolve():
        return f"work in another folder than {folder.parent}, or rename {folder}"
    return f"rename or delete {folder}, then: pip install --force-reinstall --no-deps nnunetv2"


def _is_run_here(script: Path) -> bool:
    """Whether a script's first lines name a Python of this environment."""
    with script.open("rb") as file:
        return os.fsencode(Path(sys.executable).parent / "python") in file.read(1000)
