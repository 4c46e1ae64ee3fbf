"""Shows nnU-Net the trainers of nnunetv2_salstm.

nnU-Net imports every module in the folders that nnUNet_extTrainer names and asks it for the trainer by name. This one
must not fail where the package is missing: a process of another environment may have inherited the variable.
"""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

_PREFIXES = ("nnUNetTrainerSALSTM", "nnUNetTrainerBDCLSTM")

if TYPE_CHECKING:
    # For editors, and for tools that list trainers by the class statements in these files. What is imported comes from
    # __getattr__, as suffixes make more names than can be listed.
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class nnUNetTrainerSALSTM_A(nnUNetTrainer): ...

    class nnUNetTrainerSALSTM_B(nnUNetTrainer): ...

    class nnUNetTrainerBDCLSTM(nnUNetTrainer): ...

    class nnUNetTrainerSALSTMConvControl(nnUNetTrainer): ...

    class nnUNetTrainerSALSTMOff(nnUNetTrainer): ...


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
