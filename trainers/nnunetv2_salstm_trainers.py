"""Shows nnU-Net the trainers of nnunetv2_salstm, whose names are too many to list.

nnU-Net imports every module in the folders that nnUNet_extTrainer names and asks it for the trainer by name. This one
must not fail where the package is missing: a process of another environment may have inherited the variable.
"""

import sys
from importlib.util import find_spec

_PREFIXES = ("nnUNetTrainerSALSTM", "nnUNetTrainerBDCLSTM")


def __getattr__(name):
    if name.startswith(_PREFIXES) and find_spec("nnunetv2_salstm") is not None:
        from nnunetv2_salstm import trainers

        try:
            return getattr(trainers, name)
        except AttributeError as error:
            # nnU-Net only says that it found nothing.
            print(f"nnunetv2_salstm: {error}", file=sys.stderr)
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
