"""torch.compile, which nnU-Net uses on CUDA unless it is told not to."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nnunetv2_salstm.doctor.finding import Finding, not_applicable, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine

SUBJECT = "torch.compile"
SWITCH_OFF = "or switch it off: export nnUNet_compile=f"


def check_compile(machine: Machine) -> Iterator[Finding]:
    """Where nnU-Net compiles, triton and what it builds its launchers with must be there."""
    value = os.environ.get("nnUNet_compile")
    if machine.torch is None or not machine.torch["cuda_devices"]:
        yield not_applicable(SUBJECT, "nnU-Net compiles on CUDA only")
    elif sys.platform != "linux":
        yield not_applicable(SUBJECT, f"needs Linux here, got {sys.platform}")
    elif value is not None and value.lower() not in ("true", "1", "t"):
        yield ok(SUBJECT, f"switched off by nnUNet_compile={value}")
    else:
        yield from _check_tools()


def _check_tools() -> Iterator[Finding]:
    missing = []
    if find_spec("triton") is None:
        missing.append(("triton", "run: pip install triton"))
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        missing.append(("a C compiler", "install gcc"))
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        missing.append(
            (str(header), f"install Python's headers (python{sys.version_info[0]}.{sys.version_info[1]}-dev)")
        )
    for what, todo in missing:
        yield wrong(SUBJECT, f"needs {what}, which is not there", f"{todo}, {SWITCH_OFF}")
    if not missing:
        yield ok(SUBJECT, f"triton and {compiler}")
