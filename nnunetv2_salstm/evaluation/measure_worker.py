"""The process that measures: python -m nnunetv2_salstm.evaluation.measure_worker JOB.json

One JSON object a line on standard output: {"event": "step"} for the progress bar, {"event": "size", ...} or
{"event": "failed", ...} for a trainer, {"event": "times", ...} at the end. What nnU-Net prints goes to standard error.
"""

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.configurations import BenchPlan

OUT_OF_MEMORY = "does not fit in memory"


@dataclass(frozen=True)
class Job:
    """What one process is to measure.

    Attributes:
        plan: the networks' configuration.
        trainers: which take turns.
        device: "cpu", "cuda", "cuda:N" or "mps"; a worker gets one without a number.
        batch_size: upper bound, or None.
        repeats: timed rounds; 0 only measures sizes.
    """

    plan: BenchPlan
    trainers: list[str]
    device: str
    batch_size: int | None
    repeats: int

    def write(self, file: Path) -> None:
        """Writes the job for a worker."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Job":
        """Reads a job."""
        values = json.loads(file.read_text())
        return cls(**{**values, "plan": BenchPlan(**values["plan"])})


def work(job: Job, emit: Callable[[dict[str, Any]], None]) -> None:
    """Does the job and emits what it finds."""
    # Not at the top: `main` has to send first what these print to standard error.
    import torch

    from nnunetv2_salstm.evaluation import measure

    def on_step() -> None:
        emit({"event": "step"})

    # As nnU-Net's command line sets them.
    if job.device == "cuda":
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(multiprocessing.cpu_count())
    subjects: dict[str, measure.Subject] = {}
    for name in job.trainers:
        try:
            subject, size = measure.measure_size(name, job.plan, job.device, job.batch_size, on_step)
        except Exception as error:
            traceback.print_exc()
            short = OUT_OF_MEMORY if measure.is_out_of_memory(error) else f"{type(error).__name__}: {error}"
            emit({"event": "failed", "trainer": name, "error": short})
            del error
            measure.release_memory(job.device)
        else:
            subjects[name] = subject
            shape = {"batch_size": subject.batch_size, "compiled": subject.is_compiled}
            emit({"event": "size", "trainer": name, **shape, **size})
    if job.repeats and subjects:
        try:
            times = measure.time_in_turns(subjects, job.repeats, on_step)
        except Exception as error:
            if not measure.is_out_of_memory(error):
                raise
            for name in subjects:
                emit({"event": "failed", "trainer": name, "error": OUT_OF_MEMORY})
        else:
            emit({"event": "times", "times": times})


def main() -> None:
    """Runs the job of the command line."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout.flush()
    os.dup2(2, 1)
    # Linux ends the process that asks for too much memory; it should be this one.
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")
    try:
        work(Job.read(Path(sys.argv[1])), lambda event: print(json.dumps(event), file=events))
    except KeyboardInterrupt:
        sys.exit(130)  # the process that started this one says so


if __name__ == "__main__":
    main()
