"""Looks trainers up as nnU-Net does and prints what came of it as a line of JSON; fails unless all are found.

A program, to be run in the environment in question: `python look_up_trainers.py [--spawn] NAME...`
"""

import contextlib
import io
import json
import multiprocessing
import pickle
import sys

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name


def look_up(name: str) -> dict[str, object]:
    """Returns the class that nnU-Net finds, or its error; and what this package wrote to stderr."""
    said = io.StringIO()
    found: dict[str, object]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            trainer = recursive_find_trainer_class_by_name(name)
            again = recursive_find_trainer_class_by_name(name)
            found = {"class": f"{trainer.__module__}.{trainer.__qualname__}", "same_again": again is trainer}
            found["same_unpickled"] = same_unpickled(trainer)
        except RuntimeError as error:
            found = {"error": str(error)}
    return found | {"said": [line for line in said.getvalue().splitlines() if "nnunetv2_salstm" in line]}


def same_unpickled(trainer: type) -> bool:
    try:
        return pickle.loads(pickle.dumps(trainer)) is trainer
    except pickle.PicklingError:
        return False


def main(names: list[str], spawn: bool) -> int:
    if spawn:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results = pool.map(look_up, names)
    else:
        results = [look_up(name) for name in names]
    print(json.dumps(dict(zip(names, results, strict=True))))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main([name for name in arguments if name != "--spawn"], "--spawn" in arguments))
