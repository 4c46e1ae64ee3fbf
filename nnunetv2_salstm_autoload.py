"""Tells nnU-Net where the trainers of nnunetv2_salstm are; runs at every interpreter start, so it imports only os."""

import os

_VARIABLE = "nnUNet_extTrainer"
_SHIM = "nnunetv2_salstm_trainers.py"


def trainers_folder():
    """Returns the folder with our trainers: inside the installed package, or the checkout's own; None if neither is."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (os.path.join(here, "nnunetv2_salstm", "_trainers"), os.path.join(here, "trainers")):
        if os.path.isfile(os.path.join(folder, _SHIM)):
            return folder
    return None


def register():
    """Appends our trainers' folder to nnUNet_extTrainer, once, after what the user has set there."""
    if os.environ.get("NNUNETV2_SALSTM_NO_AUTOLOAD") == "1":
        return
    folder = trainers_folder()
    # nnU-Net would take a path with a separator in it for two folders that are not ours.
    if folder is None or os.pathsep in folder:
        return
    folders = [entry for entry in os.environ.get(_VARIABLE, "").split(os.pathsep) if entry.strip()]
    if folder not in folders:
        os.environ[_VARIABLE] = os.pathsep.join([*folders, folder])
