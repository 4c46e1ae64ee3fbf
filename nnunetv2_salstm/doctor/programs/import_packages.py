"""Imports packages and says what came of each: import_packages.py ANSWERS PACKAGE..."""

import importlib
import json
import sys
import warnings
from pathlib import Path


def main(answers, packages):
    for package in packages:
        with Path(answers).open("a", encoding="utf-8") as file:
            print(json.dumps({"package": package, **look_at(package)}), file=file, flush=True)


def look_at(package):
    try:
        module = importlib.import_module(package)
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"file": module.__file__, **(describe_torch(module) if package == "torch" else {})}


def describe_torch(torch):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "cuda_build": torch.version.cuda or torch.version.hip,
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(count)],
        "cuda_warnings": [" ".join(str(warning.message).split()) for warning in warned],
        "mps": torch.backends.mps.is_available(),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
