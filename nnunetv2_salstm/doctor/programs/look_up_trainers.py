"""Looks trainers up as nnU-Net does: look_up_trainers.py ANSWERS NAME...

Says for each the file that it comes from, or nnU-Net's error; {"too_old": true} for an nnU-Net that knows nothing of
nnUNet_extTrainer.
"""

import json
import os
import sys
from pathlib import Path


def main(answers, names):
    with Path(answers).open("a", encoding="utf-8") as file:
        look_up = find_look_up()
        if look_up is None:
            print(json.dumps({"too_old": True}), file=file)
            return
        for name in names:
            print(json.dumps({"trainer": name, **describe(look_up, name)}), file=file, flush=True)


def find_look_up():
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    except ModuleNotFoundError as error:
        if error.name != "nnunetv2.utilities.find_objects":
            raise
        # There in nnU-Net 2.6 and 2.7 with this package's patch.
        from nnunetv2.utilities import find_class_by_name

        return getattr(find_class_by_name, "recursive_find_trainer_class_by_name", None)
    return recursive_find_trainer_class_by_name


def describe(look_up, name):
    try:
        trainer = look_up(name)
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"file": file_of(trainer.__module__)}


def file_of(module):
    if module in sys.modules:
        return sys.modules[module].__file__
    # nnU-Net forgets the modules of external folders after the search.
    for folder in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep):
        file = Path(folder, *module.split(".")).with_suffix(".py")
        if file.is_file():
            return str(file)
    return f"module {module}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
