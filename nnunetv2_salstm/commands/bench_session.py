"""A run of the benchmark: processes that measure, a progress bar, the files at the end."""

import argparse
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from tqdm import tqdm

from nnunetv2_salstm.evaluation.measure import WARM_UP_STEPS
from nnunetv2_salstm.evaluation.measure_worker import OUT_OF_MEMORY, Job
from nnunetv2_salstm.host.configurations import BenchPlan, plans_in_file, plans_of_dataset, presets
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.host.trainer_names import NAME_RULE
from nnunetv2_salstm.host.versions import (
    describe_hardware,
    package_versions,
    require_device,
    require_nnunet_with_trainers_by_name,
)
from nnunetv2_salstm.reporting.bench import BASELINE, Measurement, Report
from nnunetv2_salstm.reporting.bench_page import to_html

FAILED_LINES = 20


def run_bench(arguments: argparse.Namespace) -> None:
    """Measures what the command line asks for, prints a table, and writes the files after every plan.

    Raises:
        SalstmError: see `nnunetv2_salstm.bench.run`.
    """
    require_nnunet_with_trainers_by_name()
    require_device(arguments.device)
    plans = _plans(arguments)
    trainers = list(dict.fromkeys(arguments.trainers))
    _require_trainers(trainers)
    _require_writable([file for file in (arguments.json, arguments.html) if file is not None])
    if BASELINE not in trainers:
        print(f"Without {BASELINE} among the trainers there are no ratios.")
    report = Report(
        command=shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
        repeats=arguments.repeats,
        versions=package_versions(),
        hardware=describe_hardware(arguments.device),
        measurements=[],
    )
    isolated = arguments.device == "cpu"
    warm_ups = WARM_UP_STEPS * (2 if isolated else 1)
    steps = len(plans) * len(trainers) * (warm_ups + 2 * arguments.repeats)
    with tqdm(total=steps, unit="step", smoothing=0) as bar, tempfile.TemporaryDirectory() as folder:
        for index, plan in enumerate(plans, start=1):
            bar.set_description(plan.name)
            job = Job(plan, trainers, arguments.device, arguments.batch_size, arguments.repeats)
            measurements = _measure(job, Path(folder), isolated, bar)
            bar.update(steps * index // len(plans) - bar.n)  # steps of trainers that failed
            report.measurements.extend(measurements)
            _write(report, arguments)
    print(f"\n{report.to_markdown()}")
    failed = [m for m in report.measurements if m.error not in (None, OUT_OF_MEMORY)]
    if failed:
        reasons = "; ".join(f"{m.trainer} on {m.plan}: {m.error}" for m in failed)
        raise SalstmError(f"{len(failed)} measurements failed: {reasons}")


def _plans(arguments: argparse.Namespace) -> list[BenchPlan]:
    if arguments.plans is not None:
        return plans_in_file(arguments.plans, arguments.configurations)
    if arguments.dataset is not None:
        return plans_of_dataset(arguments.dataset, arguments.plans_name, arguments.configurations)
    if arguments.configurations:
        raise SalstmError("-c needs a data set (-d) or a file of plans (--plans); a preset has one configuration")
    return presets(arguments.preset)


def _require_trainers(names: Sequence[str]) -> None:
    for name in names:
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # nnU-Net tells where it looks
                recursive_find_trainer_class_by_name(name)
        except RuntimeError:
            raise SalstmError(f"nnU-Net finds no trainer {name}; one of this package is {NAME_RULE}") from None


def _require_writable(files: Sequence[Path]) -> None:
    """Finds out before hours of work that a result cannot be written after them."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SalstmError(f"cannot write {file}: {error.strerror}; choose another place") from None
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise SalstmError(f"cannot write {file}; choose another place")


def _measure(job: Job, folder: Path, isolated: bool, bar: tqdm) -> list[Measurement]:
    """Runs the processes of one plan: on the CPU one for each trainer's memory, then one where all take turns."""
    found: dict[str, dict[str, Any]] = {name: {"error": None} for name in job.trainers}
    if isolated:
        for name in job.trainers:
            alone = Job(job.plan, [name], job.device, job.batch_size, repeats=0)
            for event in _run_worker(alone, folder, bar):
                _take(event, found)
        left = [name for name in job.trainers if found[name]["error"] is None]
        job = Job(job.plan, left, job.device, job.batch_size, job.repeats)
    if job.trainers:
        for event in _run_worker(job, folder, bar):
            # The networks share a process now, so that their memory would be wrong.
            if not (isolated and event["event"] == "size"):
                _take(event, found)
    return [Measurement.make(job.plan, name, values) for name, values in found.items()]


def _take(event: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    if event["event"] == "times":
        for name, times in event["times"].items():
            found[name].update(times)
    else:
        found[event["trainer"]].update({k: v for k, v in event.items() if k not in ("event", "trainer")})


def _run_worker(job: Job, folder: Path, bar: tqdm) -> Iterator[dict[str, Any]]:
    """Yields the events of a process that does the job; a process that was killed ran out of memory."""
    job_file, log_file = folder / "job.json", folder / "log.txt"
    job.write(job_file)
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **places, "nnUNet_wandb_enabled": "0"}
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
                    bar.update()
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


def _write(report: Report, arguments: argparse.Namespace) -> None:
    for file, render in ((arguments.json, report.to_json), (arguments.html, lambda: to_html(report))):
        if file is not None:
            with written_whole(file) as unfinished:
                unfinished.write_text(render())
