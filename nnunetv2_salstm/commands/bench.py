"""measure time, memory and size of networks against the stock one

For each plan and trainer: parameters, FLOPs, seconds per training step and per inference tile, peak memory. Training
steps are nnU-Net's own (forward, loss with deep supervision, backward, clipping, optimiser; on CUDA under its autocast
and compilation, which nnUNet_compile=f switches off) on synthetic data. The trainers take turns within one process,
and what is compared are medians relative to nnUNetTrainerSALSTMOff.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.commands.options import add_option, positive
from nnunetv2_salstm.evaluation.benchmark import BASELINE, Benchmark
from nnunetv2_salstm.host.configurations import BenchPlan, plans_in_file, plans_of_dataset, presets
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import require_writable, write_text
from nnunetv2_salstm.host.presets import PRESETS
from nnunetv2_salstm.host.trainer_lookup import find_trainer
from nnunetv2_salstm.host.trainer_names import NAME_RULE

if TYPE_CHECKING:
    from nnunetv2_salstm.reporting.document import Document

TRAINERS = (BASELINE, "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the benchmark."""
    plans = parser.add_mutually_exclusive_group()
    plans.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        default=list(PRESETS),
        help=f"plans that come with this package, all by default: {', '.join(PRESETS)}",
    )
    plans.add_argument("--plans", type=Path, metavar="FILE", help="nnU-Net plans, e.g. nnUNetPlans.json")
    add_option(plans, "-d", help="a planned data set, by number or name")
    add_option(
        parser,
        "-c",
        many=True,
        help="of the plans or data set, e.g. 3d_fullres (default: every one in a file of plans)",
    )
    add_option(parser, "-p", dest="plans_name", help="plans of the data set (%(default)s)")
    add_option(
        parser,
        "-tr",
        many=True,
        default=list(TRAINERS),
        help=f"trainers to compare (default: {' '.join(TRAINERS)}); ratios need {BASELINE}",
    )
    add_option(parser, "-device", help="where to measure (%(default)s)")
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="timed rounds, after the warm-up (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="at most so many samples a batch (default: the plans')"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with table and bar chart")


def run(arguments: argparse.Namespace) -> None:
    """Runs the benchmark, prints its table and writes what was asked for.

    Raises:
        SalstmError: for an unknown preset, trainer, data set or configuration, a missing device, files that cannot be
            read or written, or when a trainer failed for another reason than memory.
    """
    import tempfile

    from tqdm import tqdm

    from nnunetv2_salstm.evaluation.measure_processes import measure_plan, steps
    from nnunetv2_salstm.evaluation.measure_worker import OUT_OF_MEMORY, Job
    from nnunetv2_salstm.host.versions import (
        describe_hardware,
        package_versions,
        require_device,
        require_nnunet_with_trainers_by_name,
    )
    from nnunetv2_salstm.reporting.document import to_terminal

    require_nnunet_with_trainers_by_name()
    require_device(arguments.device)
    plans = _plans(arguments)
    trainers = list(dict.fromkeys(arguments.trainers))
    for name in trainers:
        if find_trainer(name) is None:
            raise SalstmError(f"nnU-Net finds no trainer {name}; one of this package is {NAME_RULE}")
    require_writable([arguments.json, arguments.html])
    benchmark = Benchmark(
        command=shlex.join(["nnUNetv2_salstm", *sys.argv[1:]]),
        repeats=arguments.repeats,
        versions=package_versions(),
        hardware=describe_hardware(arguments.device),
        measurements=[],
    )
    jobs = [Job(plan, trainers, arguments.device, arguments.batch_size, arguments.repeats) for plan in plans]
    total = sum(map(steps, jobs))
    with tqdm(total=total, unit="step", smoothing=0) as bar, tempfile.TemporaryDirectory() as folder:
        for index, job in enumerate(jobs, start=1):
            bar.set_description(job.plan.name)
            benchmark.measurements.extend(measure_plan(job, Path(folder), bar.update))
            bar.update(total * index // len(jobs) - bar.n)  # steps of trainers that failed
            _write(benchmark, arguments)
    print(f"\n{to_terminal(_document(benchmark))}")
    failed = [m for m in benchmark.measurements if m["error"] not in (None, OUT_OF_MEMORY)]
    if failed:
        reasons = "; ".join(f"{m['trainer']} on {m['plan']}: {m['error']}" for m in failed)
        raise SalstmError(f"{len(failed)} measurements failed: {reasons}")


def _plans(arguments: argparse.Namespace) -> list[BenchPlan]:
    if arguments.plans is not None:
        return plans_in_file(arguments.plans, arguments.configurations)
    if arguments.dataset is not None:
        return plans_of_dataset(arguments.dataset, arguments.plans_name, arguments.configurations)
    if arguments.configurations:
        raise SalstmError("-c needs a data set (-d) or a file of plans (--plans); a preset has one configuration")
    return presets(arguments.preset)


def _document(benchmark: Benchmark) -> "Document":
    from nnunetv2_salstm.reporting.bench import bench_document

    return bench_document(
        benchmark.frame(),
        benchmark.summary(),
        baseline=BASELINE,
        repeats=benchmark.repeats,
        command=benchmark.command,
        versions=benchmark.versions,
        hardware=benchmark.hardware,
    )


def _write(benchmark: Benchmark, arguments: argparse.Namespace) -> None:
    from nnunetv2_salstm.reporting.document import to_html

    for file, render in ((arguments.json, benchmark.to_json), (arguments.html, lambda: to_html(_document(benchmark)))):
        if file is not None:
            write_text(file, render())
