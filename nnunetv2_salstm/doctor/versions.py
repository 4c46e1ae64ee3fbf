"""Python, the packages and CUDA: there, importable, and of versions that go together."""

import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from nnunetv2_salstm.doctor.finding import Finding, not_applicable, note, ok, wrong
from nnunetv2_salstm.doctor.machine import PACKAGES, Machine
from nnunetv2_salstm.patch.patches import patches_for

OURS = "nnunetv2-salstm"
OLDEST_PYTHON = (3, 10)
# The first nnU-Net that finds trainers of other packages.
TRAINERS_BY_NAME = (2, 8)


def check_python(machine: Machine) -> Iterator[Finding]:
    """Python must be one that nnU-Net supports."""
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield ok("Python", f"{platform.python_version()}, {sys.executable}")
    else:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        text = f"must be {oldest} or newer, got {platform.python_version()}"
        yield wrong("Python", text, f"make an environment with Python {oldest} or newer")


def check_packages(machine: Machine) -> Iterator[Finding]:
    """Our package, nnU-Net and what they require must be there, fit together and be importable."""
    demanded = _demanded()
    yield ok(OURS, version(OURS))
    for package in PACKAGES:
        demanded.setdefault(canonicalize_name(package), {})
    for package in sorted(demanded):
        yield from _check_package(package, demanded[package], machine)


def check_cuda(machine: Machine) -> Iterator[Finding]:
    """torch must be able to use the GPUs that there are."""
    torch = machine.torch
    if torch is None:
        yield not_applicable("CUDA", "torch cannot be imported")
        return
    build = f"torch's CUDA build {torch['cuda_build']}" if torch["cuda_build"] else "a build of torch without CUDA"
    gpus = "; ".join(machine.nvidia_gpus)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch["cuda_devices"]:
        yield ok("CUDA", f"{build}, GPUs and drivers: {gpus or ', '.join(torch['cuda_devices'])}")
    elif not gpus:
        yield not_applicable("CUDA", f"no NVIDIA GPU, {build}; train with -device cpu or mps")
    elif hidden is not None:
        yield note("CUDA", f"CUDA_VISIBLE_DEVICES={hidden} hides the GPUs: {gpus}")
    elif not torch["cuda_build"]:
        text = f"{build}, but there are GPUs: {gpus}"
        yield wrong("CUDA", text, "install torch with CUDA as https://pytorch.org/get-started/locally says")
    else:
        said = "; ".join(torch["cuda_warnings"])
        text = f"{build} cannot use the GPUs ({gpus}){': ' if said else ''}{said}"
        todo = (
            "update the NVIDIA driver, or install torch for its CUDA version: https://pytorch.org/get-started/locally"
        )
        yield wrong("CUDA", text, todo)


def _demanded() -> dict[str, dict[str, SpecifierSet]]:
    """Returns for each package who requires it, and which versions."""
    demanded: dict[str, dict[str, SpecifierSet]] = defaultdict(dict)
    for package in (OURS, "nnunetv2"):
        try:
            requirements = [Requirement(line) for line in requires(package) or []]
        except PackageNotFoundError:
            # Reported as missing, as ours requires it.
            continue
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                demanded[canonicalize_name(requirement.name)][package] = requirement.specifier
    return dict(demanded)


def _check_package(package: str, demanded: dict[str, SpecifierSet], machine: Machine) -> Iterator[Finding]:
    """Looks at one package; those that only others need are mentioned if they are wrong."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        if demanded:
            text = f"not installed, needed by {' and '.join(demanded)}"
            yield wrong(package, text, f'run: pip install "{package}{_all_of(demanded)}"')
        else:
            yield not_applicable(package, "not installed")
        return
    for who, versions in demanded.items():
        if not versions.contains(installed, prereleases=True):
            text = f"{who} {version(who)} needs {versions}, got {installed}"
            yield wrong(package, text, f'run: pip install "{package}{_all_of(demanded)}"')
            return
    name = package.replace("-", "_")
    if name not in PACKAGES:
        return
    error = machine.imports[name].get("error")
    if error is None:
        yield _describe_nnunet(installed) if package == "nnunetv2" else ok(package, installed)
    elif package == "torchvision":
        text = f"{installed} cannot be imported with torch {version('torch')}: {error}"
        todo = "install builds that belong together, from one index: pip install --upgrade torch torchvision"
        yield wrong(package, text, todo)
    else:
        yield wrong(package, f"{installed} cannot be imported: {error}", f"mend what keeps {name} from being imported")


def _describe_nnunet(installed: str) -> Finding:
    if Version(installed).release >= TRAINERS_BY_NAME:
        return ok("nnunetv2", installed)
    mend = "; nnUNetv2_salstm patch teaches it" if patches_for(installed) else ""
    text = f"{installed} does not look for trainers of other packages by itself, 2.8 does; the plans route works{mend}"
    return note("nnunetv2", text)


def _all_of(demanded: dict[str, SpecifierSet]) -> SpecifierSet:
    combined = SpecifierSet()
    for versions in demanded.values():
        combined &= versions
    return combined
