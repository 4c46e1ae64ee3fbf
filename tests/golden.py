"""Files that must be read for ever: runs of the authors' layers, and checkpoints of earlier versions."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from places import DATA

from nnunetv2_salstm.nn import SALSTM

LAYERS = sorted(DATA.glob("*.npz"))
CHECKPOINTS = sorted(DATA.glob("nnUNetTrainer*.pth"))


def load_layer(path: Path) -> tuple[SALSTM, dict[str, torch.Tensor]]:
    """Returns the authors' layer, without its weights, and what was recorded of it."""
    with np.load(path) as file:
        values = {name: file[name] for name in file.files}
    meta = json.loads(str(values.pop("meta")))
    layer = SALSTM(
        meta["in_channels"],
        meta["hidden"],
        meta["num_classes"],
        meta["kernel_size"],
        meta["layers"],
        meta["module"],
        meta["attention_size"],
    ).double()
    return layer, {name: torch.from_numpy(value) for name, value in values.items()}


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)
