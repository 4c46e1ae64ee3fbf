"""What keeps an installation from working: versions, which nnU-Net, how it finds trainers, its folders, each device."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distributions,
    packages_distributions,
    requires,
    version,
)
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from nnunetv2_salstm.host.child_python import DEVICES, IMPORT, LOOK_UP, STEP, run_child
from nnunetv2_salstm.host.trainer_names import METHODS
from nnunetv2_salstm_autoload import trainers_folder

OURS = "nnunetv2-salstm"
# torchvision comes with timm, which nnU-Net's architectures need.
PACKAGES = ("torch", "torchvision", "dynamic_network_architectures", "batchgeneratorsv2", "nnunetv2")
VARIABLE, OFF_SWITCH = "nnUNet_extTrainer", "NNUNETV2_SALSTM_NO_AUTOLOAD"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS = (*METHODS, f"{next(iter(METHODS))}_25d")

OK, NOTE, WRONG = "ok", "note", "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        status: OK, NOTE (may matter to someone, needs nothing) or WRONG.
        text: what was found.
        todo: what to do; not empty for WRONG, and only then.
    """

    subject: str
    status: str
    text: str
    todo: str = ""


def diagnose() -> Iterator[Finding]:
    """Makes all checks; one that fails itself is a finding, and the others go on."""
    for check in (check_versions, check_nnunet, check_command, check_trainers, check_folders, check_devices):
        try:
            yield from check()
        except Exception as error:
            what = f"{check.__name__} failed with {type(error).__name__}: {error}"
            yield Finding(check.__name__, WRONG, f"the check itself failed: {what}", f"report that {what}")


def check_versions() -> Iterator[Finding]:
    """This package, nnU-Net and what they require must be there, fit together and be importable."""
    yield Finding(OURS, OK, version(OURS))
    demanded: dict[str, dict[str, SpecifierSet]] = defaultdict(dict)
    for package in (OURS, "nnunetv2"):
        try:
            lines = requires(package) or []
        except PackageNotFoundError:
            continue  # reported below, as ours requires it
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                demanded[canonicalize_name(requirement.name)][package] = requirement.specifier
    failures = _import_failures()
    for name in sorted({*demanded, *map(canonicalize_name, PACKAGES)}):
        yield from _check_version(name, demanded.get(name, {}), failures.get(name.replace("-", "_")))


def check_nnunet() -> Iterator[Finding]:
    """The nnunetv2 that Python imports must be an installed release of nnU-Net, not a fork or a folder in the way."""
    subject = "nnunetv2's folder"
    spec = find_spec("nnunetv2")
    if spec is None:
        yield Finding(subject, WRONG, "nnunetv2 is not installed", "run: pip install nnunetv2")
        return
    if spec.origin is None:
        where = ", ".join(spec.submodule_search_locations or [])
        text = f"{where} has no __init__.py: what an uninstallation left"
        yield Finding(subject, WRONG, text, f"delete {where}, then: pip install --force-reinstall --no-deps nnunetv2")
        return
    folder = Path(spec.origin).parent
    owner = _owner(folder)
    if owner is None:
        installed = [f"{other.version} in {other.locate_file('')}" for other in distributions(name="nnunetv2")]
        there = ", ".join(installed) or "there is none"
        text = f"Python imports {folder}, which is not the installed nnU-Net ({there})"
        todo = f"take {folder.parent} out of PYTHONPATH, work in another folder, or rename {folder}"
        yield Finding(subject, WRONG, text, todo)
        return
    trainers = folder / "training" / "nnUNetTrainer"
    foreign = sorted(file.stem for file in trainers.glob("*.py") if file.stem not in ("__init__", "nnUNetTrainer"))
    what = f"{owner.name} {owner.version} in {folder}"
    # A release has its networks in another package, and its trainers' variants in folders.
    if (folder / "nets").is_dir() or canonicalize_name(owner.name) != "nnunetv2":
        todo = f"give this package an environment without it: pip install nnunetv2 {OURS}"
        yield Finding(subject, WRONG, f"a fork under nnU-Net's name: {what}", todo)
    elif foreign:
        text = f"{what}, with trainers that nnU-Net is not published with: {', '.join(foreign)}"
        yield Finding(subject, NOTE, text)
    else:
        yield Finding(subject, OK, what)


def check_command() -> Iterator[Finding]:
    """The shell's nnUNetv2_train must be this environment's."""
    command = "nnUNetv2_train"
    found = shutil.which(command)
    here = {Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))}
    if found is None:
        yield Finding(command, NOTE, f"not on the PATH; it is in {' or '.join(map(str, sorted(here)))}")
    elif {Path(found).parent, Path(found).resolve().parent} & here or _names_this_python(Path(found)):
        yield Finding(command, OK, found)
    else:
        text = f"{found} belongs to another environment than {sys.prefix}, where this package is"
        yield Finding(command, WRONG, text, "activate one environment, and install nnU-Net and this package into it")


def check_trainers(variables: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """nnU-Net's own search must find our trainers, in our file; its commands start with these environment variables."""
    subject, variables = "trainers", variables_at_start() if variables is None else variables
    answers, failure = run_child(LOOK_UP, *TRAINERS, variables=variables)
    value = answers.pop(0)["variable"] if answers else ""
    entries = [entry for entry in value.split(os.pathsep) if entry.strip()]
    ours = trainers_folder()
    for entry in entries:
        if not Path(entry).exists():
            yield Finding(VARIABLE, NOTE, f"{entry} does not exist, and nnU-Net passes it over")
    if ours in entries:
        yield Finding(VARIABLE, OK, value)
    else:
        why, todo = _why_missing(ours, variables)
        text = f"{value or 'empty'}: the folder of our trainers is missing, {why}"
        yield Finding(VARIABLE, WRONG, text, todo)
    if any("too_old" in answer for answer in answers):
        text = f"nnU-Net {version('nnunetv2')} cannot find trainers of other packages, only networks that plans name"
        todo = "run: pip install --upgrade nnunetv2; or take the plans route (docs/reference.md), or a patch (patches/)"
        yield Finding(subject, WRONG, text, todo)
        return
    if failure:
        todo = f"find what ends Python in nnunetv2 or in the modules of {VARIABLE} ({value or 'empty'})"
        yield Finding(subject, WRONG, f"nnU-Net's search fails: {failure}", todo)
    our_file = Path(__file__).parents[1] / "trainers.py"
    found = [answer["trainer"] for answer in answers if Path(answer.get("file", "")).resolve() == our_file.resolve()]
    if found:
        yield Finding(subject, OK, f"nnU-Net finds {', '.join(found)} in {our_file}")
    for answer in answers:
        if answer["trainer"] in found:
            continue
        if "file" in answer:
            text = f"{answer['trainer']} comes from {answer['file']}, which hides ours"
            todo = f"rename the class in {answer['file']}, or take its folder out of {VARIABLE}"
        elif answer["raised_in"]:
            text = f"nnU-Net stops its search at {answer['raised_in']}, which cannot be imported: {answer['error']}"
            todo = f"mend {answer['raised_in']}, or take its folder out of {VARIABLE}"
        else:
            text = f"nnU-Net does not find {answer['trainer']}: {answer['error']}"
            todo = _why_missing(ours, variables)[1]
        yield Finding(subject, WRONG, text, todo)
        if "file" not in answer:
            return  # the others are missing for the same reason


def check_folders() -> Iterator[Finding]:
    """nnU-Net's three folders must be set, exist and take files."""
    return map(_check_folder, FOLDERS)


def check_devices() -> Iterator[Finding]:
    """A small network with blocks must make a finite step on each device, compiled where nnU-Net compiles."""
    answers, failure = run_child(DEVICES)
    if failure:
        yield Finding("devices", NOTE, f"not looked at, as torch cannot be imported: {failure}")
        return
    (torch,) = answers
    yield _check_cuda(torch)
    yield check_step("cpu")
    for device in torch["devices"]:
        yield check_step(device)
        # As nnU-Net's trainer decides.
        compiles = os.name != "nt" and os.environ.get("nnUNet_compile", "true").lower() in ("true", "1", "t")
        if device.startswith("cuda") and compiles:
            yield check_step(device, compiled=True)


def check_step(device: str, compiled: bool = False) -> Finding:
    """Looks at one training step of a small network with blocks on a device."""
    subject = f"torch.compile on {device}" if compiled else device
    answers, failure = run_child(STEP, device, *(["compile"] if compiled else []))
    if failure:
        todo = (
            "install what is missing, or switch compiling off: export nnUNet_compile=f"
            if compiled
            else f"train on another device than {device} (-device), until a small network runs there"
        )
        return Finding(subject, WRONG, f"a small network fails: {failure}", todo)
    not_finite = answers[0]["not_finite"]
    if not_finite:
        todo = f"do not train on {device} with this torch and driver; try other versions"
        return Finding(subject, WRONG, f"{not_finite} of a small network is not finite", todo)
    return Finding(subject, OK, "a training step of a small network, all finite")


def variables_at_start(file: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """Returns the variables that this process was started with: importing this package adds to nnUNet_extTrainer.

    Args:
        file: where Linux keeps them. Elsewhere the present ones are taken, without our folder in nnUNet_extTrainer.
    """
    present = dict(os.environ)
    if file.is_file():
        pairs = (os.fsdecode(pair).partition("=") for pair in file.read_bytes().split(b"\0") if pair)
        value = {name: value for name, _, value in pairs}.get(VARIABLE, "")
    else:
        entries = present.get(VARIABLE, "").split(os.pathsep)
        value = os.pathsep.join(entry for entry in entries if entry != trainers_folder())
    return present | {VARIABLE: value}


def _import_failures() -> dict[str, str]:
    """Returns what went wrong with the import of each of PACKAGES that cannot be imported."""
    failures: dict[str, str] = {}
    left = list(PACKAGES)
    while left:
        answers, failure = run_child(IMPORT, *left)
        failures |= {answer["package"]: answer["error"] for answer in answers if answer["error"]}
        left = left[len(answers) :]
        if left:
            # A wrong combination of builds has ended the process; the others get another one.
            failures[left.pop(0)] = failure
    return failures


def _check_version(name: str, demanded: Mapping[str, SpecifierSet], failure: str | None) -> Iterator[Finding]:
    """Looks at one package; those that only others need are mentioned if they are wrong."""
    together = SpecifierSet()
    for versions in demanded.values():
        together &= versions
    todo = f'run: pip install "{name}{together}"'
    try:
        installed = version(name)
    except PackageNotFoundError:
        if demanded:
            yield Finding(name, WRONG, f"not installed, needed by {' and '.join(demanded)}", todo)
        return
    for who, versions in demanded.items():
        if not versions.contains(installed, prereleases=True):
            yield Finding(name, WRONG, f"{who} {version(who)} needs {versions}, got {installed}", todo)
            return
    if failure:
        todo = f"mend what keeps {name} from being imported"
        if name == "torchvision":
            todo = "install builds that belong together, from one index: pip install --upgrade torch torchvision"
        yield Finding(name, WRONG, f"{installed} cannot be imported: {failure}", todo)
    elif name == "nnunetv2" and Version(installed).release < (2, 8):
        text = f"{installed} does not look for trainers of other packages by itself, 2.8 does; the plans route works"
        yield Finding(name, NOTE, text)
    elif name.replace("-", "_") in PACKAGES:
        yield Finding(name, OK, installed)


def _owner(folder: Path) -> Distribution | None:
    """Returns the installed distribution that nnunetv2's folder belongs to, whatever its name."""
    names = dict.fromkeys(["nnunetv2", *packages_distributions().get("nnunetv2", [])])
    for distribution in (found for name in names for found in distributions(name=name)):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            if Path(url2pathname(urlparse(origin["url"]).path)).resolve() in folder.resolve().parents:
                return distribution
        elif Path(str(distribution.locate_file("nnunetv2"))).resolve() == folder.resolve():
            return distribution
    return None


def _names_this_python(script: Path) -> bool:
    with script.open("rb") as file:
        return os.fsencode(Path(sys.executable).parent / "python") in file.read(1000)


def _why_missing(ours: str | None, variables: Mapping[str, str]) -> tuple[str, str]:
    """Returns why our folder is not in nnUNet_extTrainer, and what to do."""
    export = f'export {VARIABLE}="$(nnUNetv2_salstm trainers --path)"'
    if ours is None:
        return "and the installation lacks it", f"run: pip install --force-reinstall {OURS}"
    if variables.get(OFF_SWITCH) == "1":
        why = f"as {OFF_SWITCH}=1 keeps Python's start-up from adding it"
        return why, f"unset {OFF_SWITCH}, or: {export}"
    why = "as Python's start-up does not add it here"
    return why, f"run: pip install --force-reinstall --no-deps {OURS}; or: {export}"


def _check_folder(variable: str) -> Finding:
    value = os.environ.get(variable)
    if not value:
        return Finding(variable, WRONG, "not set", f"name a folder of yours: export {variable}=/path/to/a/folder")
    folder = Path(value)
    another = f"let {variable} name a folder that you may write to, got {value}"
    try:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            return Finding(variable, WRONG, f"{value} {what}", f"make the folder that {variable} names: {value}")
    except PermissionError as error:
        return Finding(variable, WRONG, f"{value} is out of reach: {error.strerror}", another)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"nnunetv2_salstm")
    except OSError as error:
        text = f"{value} takes no files: {error.strerror}"
        if variable == "nnUNet_raw":
            # Shared and read-only at many places.
            return Finding(variable, NOTE, f"{text}; only converting data sets needs that")
        return Finding(variable, WRONG, text, another)
    return Finding(variable, OK, f"{value}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free")


def _check_cuda(torch: Mapping[str, Any]) -> Finding:
    """Says whether torch can use the GPUs that there are."""
    build = f"torch's CUDA build {torch['cuda_build']}" if torch["cuda_build"] else "a build of torch without CUDA"
    if torch["names"]:
        return Finding("CUDA", OK, f"{build}: {', '.join(torch['names'])}")
    gpus = _nvidia_gpus()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus:
        return Finding("CUDA", NOTE, f"no NVIDIA GPU, {build}; train with -device cpu or mps")
    if hidden is not None:
        return Finding("CUDA", NOTE, f"CUDA_VISIBLE_DEVICES={hidden} hides the GPUs: {gpus}")
    said = "".join(f": {warning}" for warning in torch["warnings"])
    todo = "install torch for the driver's CUDA version, or update the driver: https://pytorch.org/get-started/locally"
    return Finding("CUDA", WRONG, f"{build} cannot use the GPUs ({gpus}){said}", todo)


def _nvidia_gpus() -> str:
    """Returns name and driver of each NVIDIA GPU, as the driver says, whether torch can use them or not."""
    if (program := shutil.which("nvidia-smi")) is None:
        return ""
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "; ".join(result.stdout.strip().splitlines()) if result.returncode == 0 else ""
