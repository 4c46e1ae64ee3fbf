"""Runs nnU-Net's console commands one after the other in this process: python nnunet_commands.py COMMANDS.json

Each is the function behind the command, with its arguments on sys.argv, as the installed script calls it; what is
saved are the seconds that each start of Python and torch takes. nnU-Net's pools, too, start from one process that has
imported nnU-Net, instead of from nothing each time; in planning from this one, as no thread of torch has run yet there.
"""

import json
import multiprocessing.context
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

PLANNING = {
    "nnUNetv2_extract_fingerprint",
    "nnUNetv2_plan_experiment",
    "nnUNetv2_preprocess",
    "nnUNetv2_plan_and_preprocess",
}


def main() -> None:
    """Runs the commands, lists of words, of a file; stops at the first that fails."""
    commands = json.loads(Path(sys.argv[1]).read_text())
    contexts = multiprocessing.context._concrete_contexts
    if sys.platform == "linux" and PLANNING.issuperset(words[0] for words in commands):
        contexts["spawn"] = contexts["fork"]
    else:
        multiprocessing.set_forkserver_preload(["nnunetv2.inference.export_prediction"])
        contexts["spawn"] = contexts["forkserver"]
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    for words in commands:
        sys.argv = words
        start = time.perf_counter()
        print(f"==> {' '.join(words)}", flush=True)
        try:
            status = scripts[words[0]].load()()  # ours return one, nnU-Net's return nothing
        except SystemExit as exit_:
            status = exit_.code
        if status:
            sys.exit(status)
        print(f"==> {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
