"""Shows nnU-Net the trainers of nnunetv2_salstm, whose names are too many to list.

nnU-Net imports every module in the folders that nnUNet_extTrainer names and asks it for the trainer by name. This one
must not fail where the package is missing: a process of another environment may have inherited the variable.
"""

import sys
from importlib.util import find_spec

_PREFIXES = ("nnUNetTrainerSALSTM", "nnUNetTrainerBDCLSTM")


def __getattr__(name):
    if name.startswith(_PREFIXES) and _is_installed("nnunetv2_salstm"):
        from nnunetv2_salstm.trainers import get_trainer

        try:
            return get_trainer(name)
        except ValueError as error:
            # nnU-Net only says that it found nothing.
            print(f"nnunetv2_salstm: {error}", file=sys.stderr)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_installed(package):
    spec = find_spec(package)
    # Any folder of that name in the working directory, such as a clone, has a spec, but no origin.
    return spec is not None and spec.origin is not None
