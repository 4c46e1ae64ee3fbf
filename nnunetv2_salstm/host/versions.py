"""What results were obtained with, and whether this machine can do what was asked for."""

import json
import os
import platform
from importlib.metadata import distribution, version
from pathlib import Path

import torch
from packaging.version import Version

from nnunetv2_salstm.host.errors import SalstmError

PACKAGES = ("nnunetv2-salstm", "nnunetv2", "dynamic-network-architectures", "torch", "numpy")


def require_device(device: str) -> None:
    """Makes sure that torch can use a device: "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        SalstmError: if it cannot.
    """
    kind, _, index = device.partition(":")
    if kind == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if there <= int(index or 0):
            found = f"it finds {there}, the first is cuda:0" if there else "it finds none; run with -device cpu"
            raise SalstmError(f"-device {device} needs a GPU that torch can use, and {found}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SalstmError("-device mps needs Apple's GPU, and torch finds none; run with -device cpu")


def require_nnunet_with_trainers_by_name() -> None:
    """Makes sure that nnU-Net is new enough to find trainers of other packages by name.

    Raises:
        SalstmError: if it is older than 2.8.
    """
    nnunet = version("nnunetv2")
    if Version(nnunet).release < (2, 8):
        raise SalstmError(
            f"this needs nnU-Net 2.8 or newer, which finds trainers by name, got {nnunet}; "
            "run: pip install --upgrade nnunetv2"
        )


def describe_nnunet() -> str:
    """Returns nnU-Net's version, and whether it is a release or a checkout of its sources, e.g. "2.8.1 (release)"."""
    import nnunetv2

    installed = distribution("nnunetv2")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    imported = Path(str(nnunetv2.__file__)).parent.resolve()
    is_release = imported == Path(str(installed.locate_file("nnunetv2"))).resolve() and not (
        "vcs_info" in origin or "dir_info" in origin
    )
    return f"{installed.version} ({'release' if is_release else 'checkout'})"


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def describe_hardware(device: str) -> dict[str, str | int]:
    """Returns the device's name, the number of threads and the operating system."""
    return {"device": _device_name(device), "threads": torch.get_num_threads(), "system": platform.platform()}


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()
