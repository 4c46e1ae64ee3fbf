"""Imports what nnU-Net imports from nnUNet_extTrainer: import_external_trainers.py ANSWERS

Says what the variable holds in a process that has just started, and for each of its folders whether it exists, whether
it is one of this package's, and which modules fail. This package's own are not imported.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

OURS = "nnunetv2_salstm_trainers.py"


def main(answers):
    value = os.environ.get("nnUNet_extTrainer", "")
    with Path(answers).open("a", encoding="utf-8") as file:
        print(json.dumps({"variable": value}), file=file, flush=True)
        for entry in value.split(os.pathsep):
            if entry.strip():
                ours = Path(entry, OURS).is_file()
                failures = [] if ours else import_modules(entry)
                event = {"entry": entry, "exists": Path(entry).exists(), "ours": ours, "failures": failures}
                print(json.dumps(event), file=file, flush=True)


def import_modules(folder):
    """Imports the modules in a folder and in its packages, and returns file and error of each that fails."""
    sys.path.insert(0, str(Path(folder).resolve()))
    before = set(sys.modules)
    try:
        return list(find_failures(Path(folder), ""))
    finally:
        del sys.path[0]
        # The next folder may have modules of the same names. Those of other packages stay.
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(folder).resolve() in Path(file).resolve().parents:
                del sys.modules[name]


def find_failures(folder, prefix):
    for _, name, is_package in pkgutil.iter_modules([str(folder)]):
        if is_package:
            yield from find_failures(folder / name, f"{prefix}{name}.")
            continue
        try:
            # What they print is not ours.
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(prefix + name)
        except BaseException as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield {"file": str(folder / f"{name}.py"), "error": text}


if __name__ == "__main__":
    main(sys.argv[1])
