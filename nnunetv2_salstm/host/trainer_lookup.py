"""nnU-Net's own search for trainers, where its version has one."""

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import nnunetv2_salstm_autoload
from nnunetv2_salstm.host.errors import SalstmError


def our_folder() -> str:
    """Returns the folder for nnUNet_extTrainer.

    Raises:
        SalstmError: if the installation lacks it.
    """
    folder = nnunetv2_salstm_autoload.trainers_folder()
    if folder is None:
        raise SalstmError("the installation has no trainers folder; run: pip install --force-reinstall nnunetv2-salstm")
    return folder


def find_trainer(name: str) -> type[Any] | None:
    """Returns the trainer that nnU-Net's commands take for a name, None if they find none.

    nnU-Net 2.8 looks in the folders of nnUNet_extTrainer too, earlier ones only among its own.

    Raises:
        SalstmError: if a file there cannot be imported, at which nnU-Net's commands end, too.
    """
    # Somebody may have set the variable since this package was imported.
    nnunetv2_salstm_autoload.register()
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    except ImportError:  # nnU-Net before 2.8
        import nnunetv2
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        def find(name: str) -> Any:
            package = "nnunetv2.training.nnUNetTrainer"
            return recursive_find_python_class(f"{nnunetv2.__path__[0]}/training/nnUNetTrainer", name, package)

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # where it looks is nobody's business here
            return find(name)
    except RuntimeError:
        return None
    except Exception as error:
        raise SalstmError(
            f"nnU-Net's search for {name} ended with {type(error).__name__}: {error}; mend or remove that file in the "
            "folders of nnUNet_extTrainer"
        ) from None
