"""Python code that is run in a process of its own, as it may fail or crash there: imports, nnU-Net's search, a step.

It sees what nnU-Net's commands see, and nothing of this package, whose import alone would change nnUNet_extTrainer.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

# A first import of torch and nnU-Net from a network drive takes minutes.
SECONDS = 600

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
IMPORT = """
import importlib
for package in sys.argv[1:]:
    try:
        importlib.import_module(package)
        answer(package=package, error=None)
    except BaseException as error:
        answer(package=package, error=describe(error))
"""
DEVICES = """
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
LOOK_UP = """
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
STEP = """
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
