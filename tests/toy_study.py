"""A study of toy tasks, whose commands write a file after a while: for tests of what starts, locks and judges them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_salstm.study.study import Resources
from nnunetv2_salstm.study.tasks import Dataset, Task

# Takes SECONDS, writes down its starts and ends, and writes OUTPUT. It fails as long as there is a file .fail. If there
# is one .quick it has nothing left to do when it starts again, as one that goes on from a checkpoint.
PROGRAM = """
import os, pathlib, sys, time
output, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
starts = output.with_suffix(".starts")
with starts.open("a") as file:
    file.write("start\\n")
if output.with_suffix(".fail").exists():
    print("no more memory")
    sys.exit(3)
print("cores:", len(os.sched_getaffinity(0)), flush=True)
again = len(starts.read_text().split()) > 1
time.sleep(0 if again and output.with_suffix(".quick").exists() else seconds)
output.write_text("done")
with starts.open("a") as file:
    file.write("end\\n")
"""


@dataclass(frozen=True)
class Toy(Task):
    """Writes a file."""

    output: Path
    seconds: float = 0.0

    def command(self) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(self.output), str(self.seconds)]

    def missing(self) -> str | None:
        return None if self.output.is_file() else f"there is no {self.output}"

    def lines(self) -> list[str]:
        """Starts and ends of its command, in their order."""
        file = self.output.with_suffix(".starts")
        return file.read_text().split() if file.is_file() else []


def toys(root: Path, *specs: tuple[str, tuple[str, ...], float], hours: float = 1.0) -> list[Toy]:
    """Returns tasks from their names, those before them, and the seconds they take."""
    dataset = Dataset(root / "raw" / "Dataset001_Toy", root / "preprocessed", root / "results")
    dataset.raw.mkdir(parents=True, exist_ok=True)
    (dataset.raw / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    resources = Resources(hours=hours)
    return [
        Toy(
            f"toy__{name}", dataset, resources, tuple(f"toy__{other}" for other in after), root / f"{name}.txt", seconds
        )
        for name, after, seconds in specs
    ]
