"""Reading nnU-Net's checkpoints without executing what is in them, and telling which cannot be read at all."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2_salstm.host.errors import SalstmError

_NUMBERS = ("bool", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32")
_DTYPES = tuple(np.dtype(name) for name in (*_NUMBERS, "float64"))
# All that nnU-Net's checkpoints hold besides tensors and plain values: numbers and arrays of numpy. The functions that
# make them live in numpy.core before numpy 2 and in numpy._core since; a checkpoint names the place of the numpy that
# wrote it, and is read with either.
SAFE_GLOBALS: list[Any] = [
    *(type(dtype) for dtype in _DTYPES),
    *(dtype.type for dtype in _DTYPES),
    np.dtype,
    np.ndarray,
    *(
        (function, f"{module}.multiarray.{name}")
        for name, function in (
            ("scalar", np.float64(0).__reduce__()[0]),
            ("_reconstruct", np.zeros(1).__reduce__()[0]),
        )
        for module in ("numpy.core", "numpy._core")
    ),
]


class CheckpointError(SalstmError, ValueError):
    """A checkpoint that cannot be read; the message names it, the reason, and a way out."""


class DamagedCheckpoint(CheckpointError):
    """A file that proves to be no whole checkpoint: nothing can read it."""


class RefusedCheckpoint(CheckpointError):
    """A file that is not read here, without proof that it is damaged: nnU-Net's own loading may read it."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Returns a checkpoint of nnU-Net; weights stay on the disk until they are used, where it can be mapped.

    Only tensors, plain values and `SAFE_GLOBALS` are unpickled, so that a checkpoint from elsewhere cannot run code
    here. nnU-Net's own loading unpickles everything.

    Raises:
        DamagedCheckpoint: if the file is empty, cut short, or no file of torch at all.
        RefusedCheckpoint: if it holds other objects, or cannot be read for a reason that is not known.
        CheckpointError: if it is not there, or not a checkpoint of nnU-Net.
    """
    try:
        checkpoint = _load(file)
    except MemoryError:
        raise
    except Exception as error:
        raise _explained(file, error) from None
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise CheckpointError(f"{file} is not a checkpoint of nnU-Net: it has no network_weights")
    return checkpoint


def trained_as(file: Path, checkpoint: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the names of the trainer and the configuration that a checkpoint is of.

    Raises:
        CheckpointError: if it does not say them.
    """
    try:
        return checkpoint["trainer_name"], checkpoint["init_args"]["configuration"]
    except KeyError as error:
        raise CheckpointError(f"{file} is not a checkpoint of nnU-Net: it has no {error}") from None


def write_failed(error: Exception) -> bool:
    """Returns whether an error is that a file could not be written, which torch's writer says with a RuntimeError.

    Other RuntimeErrors have other causes, such as a device without memory.
    """
    return isinstance(error, OSError) or bool(re.search("inline_container|Parent directory", str(error)))


def damage_of(file: Path) -> str | None:
    """Returns what proves that nothing can read a checkpoint, None if there is no proof.

    Raises:
        OSError: if the file cannot be opened.
    """
    with file.open("rb") as content:
        start = content.read(4)
    if not start:
        return "it is empty"
    # Before version 1.6, torch wrote a pickle.
    if start.startswith(b"\x80"):
        return None
    if start != b"PK\x03\x04":
        return "it is no file that torch writes"
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError):
        return "it is cut short"
    return None if broken is None else f"the check sum of {broken} in it is wrong"


def _load(file: Path) -> Any:
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        try:
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except (RuntimeError, OSError, ValueError):
            # Not every file system can map files, and no file of old versions of torch can be.
            return torch.load(file, map_location="cpu", weights_only=True)


def _explained(file: Path, error: Exception) -> CheckpointError:
    """Returns what a failure to load a checkpoint means."""
    try:
        damage = damage_of(file)
    except OSError as not_opened:
        return CheckpointError(f"checkpoint {file} cannot be read: {not_opened.strerror}")
    if damage is not None:
        return DamagedCheckpoint(f"checkpoint {file} is damaged: {damage}")
    if isinstance(error, pickle.UnpicklingError):
        return RefusedCheckpoint(
            f"checkpoint {file} holds more than numbers and plain values, which are not loaded, as they could run code "
            f"({_in_a_line(error)}); if you trust it, load it with torch.load(..., weights_only=False), take that out "
            "and save it again"
        )
    return RefusedCheckpoint(
        f"checkpoint {file} cannot be read here, though nothing proves that it is damaged "
        f"({type(error).__name__}: {_in_a_line(error)}); try a copy on another disk, or another version of torch"
    )


def _in_a_line(error: BaseException) -> str:
    """Returns the line of torch's message that names the cause, without terminal escapes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0].partition(". ")[0][:200]


def count_parameters(weights: Mapping[str, Tensor]) -> int:
    """Returns the number of the network's parameters in a checkpoint's weights, each once however many names it has."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    unique = {
        tensor.data_ptr(): tensor.numel()
        for name, tensor in weights.items()
        if name.rpartition(".")[2] not in statistics
    }
    return sum(unique.values())
