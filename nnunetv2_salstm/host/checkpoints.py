"""Reading nnU-Net's checkpoints without executing what is in them."""

import errno
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# All that nnU-Net's checkpoints hold besides tensors and plain values: numbers of numpy.
SAFE_GLOBALS: list[Any] = [
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
    np.dtype,
    np.float32,
    np.float64,
    np.float64(0).__reduce__()[0],
]
# What torch raises for a file that is not a whole checkpoint, or holds other objects.
UNREADABLE = (RuntimeError, EOFError, KeyError, pickle.UnpicklingError)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Returns a checkpoint of nnU-Net; weights stay on the disk until they are used.

    Only tensors, plain values and `SAFE_GLOBALS` are unpickled, so that a checkpoint from elsewhere cannot run code
    here. nnU-Net's own loading unpickles everything.

    Raises:
        OSError: if the file is not there.
        RuntimeError, EOFError, KeyError, pickle.UnpicklingError: if it is no whole checkpoint, or holds other objects;
            together they are `UNREADABLE`.
    """
    if not hasattr(torch.serialization, "safe_globals"):  # torch before 2.5 cannot be told what is safe
        return torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            checkpoint = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # What mapping the rest of a file gives that is cut short.
        raise RuntimeError(f"the file ends too early ({error})") from error
    if "network_weights" not in checkpoint:
        raise KeyError("network_weights")
    return checkpoint


def count_parameters(weights: Mapping[str, Tensor]) -> int:
    """Returns the number of the network's parameters in a checkpoint's weights, each once however many names it has."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    unique = {
        tensor.data_ptr(): tensor.numel()
        for name, tensor in weights.items()
        if name.rpartition(".")[2] not in statistics
    }
    return sum(unique.values())
