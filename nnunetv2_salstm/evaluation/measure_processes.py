"""The processes that measure, and what their events say."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_salstm.evaluation.benchmark import QUANTITIES
from nnunetv2_salstm.evaluation.measure import WARM_UP_STEPS
from nnunetv2_salstm.evaluation.measure_worker import OUT_OF_MEMORY, Job
from nnunetv2_salstm.host.commands import on_device
from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.host.errors import SalstmError

FAILED_LINES = 20


def steps(job: Job) -> int:
    """Returns how many steps measuring a plan takes."""
    warm_ups = WARM_UP_STEPS * (2 if _isolated(job.device) else 1)
    return len(job.trainers) * (warm_ups + 2 * job.repeats)


def measure_plan(job: Job, folder: Path, on_step: Callable[[], object]) -> list[dict[str, Any]]:
    """Returns the measurements of one plan, see `Benchmark`; on the CPU each trainer's memory has a process of its own.

    Args:
        job: what to measure.
        folder: for the processes' files.
        on_step: called after each of `steps`.

    Raises:
        SalstmError: if a process failed.
    """
    kind, visible = on_device(job.device)
    job, isolated = replace(job, device=kind), _isolated(kind)
    plan = job.plan
    about = {"plan": plan.name, "configuration": plan.configuration, "patch_size": _patch_size(plan)}
    empty = dict.fromkeys(("batch_size", "compiled", *QUANTITIES, "error"))
    found: dict[str, dict[str, Any]] = {name: {**about, "trainer": name, **empty} for name in job.trainers}
    if isolated:
        for name in job.trainers:
            for event in _run_worker(replace(job, trainers=[name], repeats=0), folder, visible, on_step):
                _take(event, found)
        job = replace(job, trainers=[name for name in job.trainers if found[name]["error"] is None])
    if job.trainers:
        for event in _run_worker(job, folder, visible, on_step):
            # The networks share a process now, so that their memory would be wrong.
            if not (isolated and event["event"] == "size"):
                _take(event, found)
    return list(found.values())


def _patch_size(plan: BenchPlan) -> list[int]:
    return list(PlansManager(plan.plans).get_configuration(plan.configuration).patch_size)


def _take(event: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    if event["event"] == "times":
        for name, times in event["times"].items():
            found[name].update(times)
    else:
        found[event["trainer"]].update({name: value for name, value in event.items() if name != "event"})


def _run_worker(
    job: Job, folder: Path, visible: dict[str, str], on_step: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """Yields the events of a process that does the job; a process that was killed ran out of memory."""
    job_file, log_file = folder / "job.json", folder / "log.txt"
    job.write(job_file)
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **places, **visible, "nnUNet_wandb_enabled": "0"}
    if not job.repeats:
        # glibc then returns each large tensor to the system when it is freed, so that resident memory is what is in use
        # (without: 5 % from run to run). It costs time, hence not where time is measured.
        environment["MALLOC_MMAP_THRESHOLD_"] = str(256 * 1024)
    command = [sys.executable, "-m", "nnunetv2_salstm.evaluation.measure_worker", str(job_file)]
    with (
        log_file.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        try:
            for line in process.stdout or ():
                event = json.loads(line)
                if event["event"] == "step":
                    on_step()
                else:
                    yield event
        except BaseException:
            process.kill()
            raise
    if process.returncode == -signal.SIGKILL:
        for name in job.trainers:
            yield {"event": "failed", "trainer": name, "error": OUT_OF_MEMORY}
    elif process.returncode:
        lines = log_file.read_text().splitlines()[-FAILED_LINES:]
        raise SalstmError(f"measuring {job.plan.name} failed with status {process.returncode}:\n" + "\n".join(lines))


def _isolated(device: str) -> bool:
    # A process's memory is its own only; on CUDA each tensor's is known.
    return device == "cpu"
