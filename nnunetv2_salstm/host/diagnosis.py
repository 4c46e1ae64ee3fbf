"""What keeps an installation from working: versions, which nnU-Net, its search for trainers, its folders, each device.

What may fail or crash runs in other processes. They see what nnU-Net's commands see, and nothing of this package, whose
import alone would already change nnUNet_extTrainer.
"""

import json
import os
import shutil
import signal
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

from nnunetv2_salstm.host.trainer_names import METHODS
from nnunetv2_salstm_autoload import trainers_folder

OURS = "nnunetv2-salstm"
# torchvision comes with timm, which nnU-Net's architectures need.
PACKAGES = ("torch", "torchvision", "dynamic_network_architectures", "batchgeneratorsv2", "nnunetv2")
VARIABLE, OFF_SWITCH = "nnUNet_extTrainer", "NNUNETV2_SALSTM_NO_AUTOLOAD"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS = (*METHODS, f"{next(iter(METHODS))}_25d")
# A first import of torch and nnU-Net from a network drive takes minutes.
SECONDS = 600

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
    owner = _owner("nnunetv2", folder)
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
    answers, failure = run_child(_LOOK_UP, *TRAINERS, variables=variables)
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
    answers, failure = run_child(_DEVICES)
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
    answers, failure = run_child(_STEP, device, *(["compile"] if compiled else []))
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


# nnU-Net's commands do not look in the working directory, as `python -c` would. What others print is no answer.
_START = """
import json, os, sys
sys.path[:] = [entry for entry in sys.path if entry]
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
def answer(**values):
    print(json.dumps(values), file=answers, flush=True)
def describe(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
"""
_IMPORT = """
import importlib
for package in sys.argv[1:]:
    try:
        importlib.import_module(package)
        answer(package=package, error=None)
    except BaseException as error:
        answer(package=package, error=describe(error))
"""
_DEVICES = """
import warnings
import torch
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
answer(
    cuda_build=torch.version.cuda or torch.version.hip,
    devices=[f"cuda:{index}" for index in range(count)] + ["mps"] * torch.backends.mps.is_available(),
    names=[torch.cuda.get_device_name(index) for index in range(count)],
    warnings=[" ".join(str(warning.message).split()) for warning in warned],
)
"""
# nnU-Net 2.6 and 2.7 have the function with this project's patch only. nnU-Net forgets the modules of other folders
# after the search, so that their files are looked for.
_LOOK_UP = """
variable = os.environ.get("nnUNet_extTrainer", "")
answer(variable=variable)
try:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as look_up
except ModuleNotFoundError as error:
    if error.name != "nnunetv2.utilities.find_objects":
        raise
    from nnunetv2.utilities import find_class_by_name
    look_up = getattr(find_class_by_name, "recursive_find_trainer_class_by_name", None)
folders = [os.path.abspath(entry) for entry in variable.split(os.pathsep) if entry.strip()]
def is_in_folder(file):
    return any(file.startswith(folder + os.sep) for folder in folders)
def file_of(module):
    if module in sys.modules:
        return sys.modules[module].__file__
    files = [os.path.join(folder, *module.split(".")) + ".py" for folder in folders]
    return next(filter(os.path.isfile, files), f"module {module}")
for name in sys.argv[1:] if look_up else []:
    try:
        answer(trainer=name, file=file_of(look_up(name).__module__))
    except BaseException as error:
        import traceback
        files = [os.path.abspath(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            files.append(os.path.abspath(error.filename or ""))
        answer(trainer=name, error=describe(error), raised_in=next(filter(is_in_folder, reversed(files)), ""))
if look_up is None:
    answer(too_old=True)
"""
# As they start, the blocks are the identity, and most of their gradients zero: hence other weights.
_STEP = """
import torch
from torch import nn
from nnunetv2_salstm.networks import SALSTMPlainConvUNet
device = torch.device(sys.argv[1])
network = SALSTMPlainConvUNet(
    input_channels=1, n_stages=3, features_per_stage=[8, 16, 16], conv_op=nn.Conv3d,
    kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    n_conv_per_stage=[1, 1, 1], num_classes=2, n_conv_per_stage_decoder=[1, 1], conv_bias=True,
    norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=True,
    salstm={"module": "A"},
)
network.apply(network.initialize)
for parameter in network.parameters():
    nn.init.normal_(parameter, std=0.05)
network = network.to(device)
forward = torch.compile(network) if "compile" in sys.argv[2:] else network
with torch.autocast(device.type, enabled=device.type == "cuda"):
    outputs = forward(torch.randn(1, 1, 8, 32, 32, device=device))
sum(y.float().square().mean() for y in outputs).backward()
bad = None if all(torch.isfinite(y).all() for y in outputs) else "the output"
for name, parameter in network.named_parameters():
    if bad is None and (parameter.grad is None or not torch.isfinite(parameter.grad).all()):
        bad = f"the gradient of {name}"
answer(not_finite=bad)
"""


def run_child(
    code: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[list[dict[str, Any]], str]:
    """Runs Python code in another process; returns what it answered, also before a crash, and how it failed or "".

    Args:
        code: that calls `answer` with what it finds, behind `_START`.
        arguments: for it.
        variables: of its environment, by default those of this process.
    """
    command = [sys.executable, "-c", _START + code, *arguments]
    try:
        result = subprocess.run(command, env=variables, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        return _answers(expired.stdout or b""), f"no answer within {SECONDS} s"
    status, last_line = result.returncode, result.stderr.decode(errors="replace").strip().rpartition("\n")[2].strip()
    how = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
    failure = f"the process {how}{f': {last_line}' if last_line else ''}"
    return _answers(result.stdout), failure if status else ""


def _answers(printed: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.decode().splitlines()]


def _import_failures() -> dict[str, str]:
    """Returns what went wrong with the import of each of PACKAGES that cannot be imported."""
    failures: dict[str, str] = {}
    left = list(PACKAGES)
    while left:
        answers, failure = run_child(_IMPORT, *left)
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


def _owner(package: str, folder: Path) -> Distribution | None:
    """Returns the installed distribution that a package's folder belongs to, whatever its name."""
    names = dict.fromkeys([package, *packages_distributions().get(package, [])])
    for distribution in (found for name in names for found in distributions(name=name)):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            if Path(url2pathname(urlparse(origin["url"]).path)).resolve() in folder.resolve().parents:
                return distribution
        elif Path(str(distribution.locate_file(package))).resolve() == folder.resolve():
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
