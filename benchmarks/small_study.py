"""The small study: many short trainings of small networks on two CPU cores. docs/evidence.md has what came out.

    python benchmarks/small_study.py prepare --data REAL_DATA --work WORK acdc_3d hippocampus_3d
    python benchmarks/small_study.py run --work WORK --settings acdc_3d --methods stock A0 A1 --steps 400 --seeds 0 1
    python benchmarks/small_study.py tables
    python benchmarks/small_study.py --verify

A run is one JSON file, docs/results/small_study/<setting>/<method>-<steps>-seed<seed>.json. Runs that have one are
skipped; a killed run goes on with the next call. Several calls may share the work.
"""

import argparse
import fcntl
import itertools
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.host.errors import SalstmError

if TYPE_CHECKING:
    from small_training import Setting

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "small_study"
NICE = 19
# What is left around the labels where images are cut, in mm; the patches of the settings hold most of it.
MARGIN = 30.0


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs (default: the repository's)")
    parser.add_argument("--verify", action="store_true", help="compare tables and checksums with the runs")
    commands = parser.add_subparsers(dest="command")
    prepare_parser = commands.add_parser("prepare", help="convert, plan and preprocess the data of settings")
    prepare_parser.add_argument("settings", nargs="+")
    prepare_parser.add_argument("--data", type=Path, default=os.environ.get("SALSTM_REAL_DATA"))
    run_parser = commands.add_parser("run", help="train what has not been trained")
    run_parser.add_argument("--settings", nargs="+", required=True)
    run_parser.add_argument("--methods", nargs="+", required=True)
    run_parser.add_argument("--steps", nargs="+", type=int, required=True)
    run_parser.add_argument("--seeds", nargs="+", type=int, required=True)
    run_parser.add_argument("--workers", type=int, default=2)
    for subparser in (prepare_parser, run_parser):
        subparser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's data, some gigabytes")
    commands.add_parser("tables", help="write tables, figure and checksums")
    arguments = parser.parse_args(argv)
    if not arguments.verify and arguments.command is None:
        parser.error("a command or --verify is needed")
    try:
        if arguments.verify:
            from small_tables import verify

            verify(arguments.results)
        elif arguments.command == "prepare":
            prepare(arguments)
        elif arguments.command == "run":
            run(arguments)
        else:
            from small_tables import write

            write(arguments.results)
    except SalstmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def set_folders(work: Path) -> None:
    """Tells nnU-Net its folders, which it reads at import."""
    for name in ("raw", "preprocessed", "results"):
        folder = work.absolute() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ["nnUNet_n_proc_DA"] = "1"


def check_settings(names: list[str]) -> None:
    """Raises a SalstmError for a setting that there is not."""
    from small_training import SETTINGS

    for name in names:
        if name not in SETTINGS:
            raise SalstmError(f"a setting must be one of {', '.join(SETTINGS)}; got {name!r}")


def prepare(arguments: argparse.Namespace) -> None:
    """Converts, plans and preprocesses what is not there yet, with nnU-Net's and the package's own commands."""
    set_folders(arguments.work)
    check_settings(arguments.settings)
    from small_training import SETTINGS

    if arguments.data is None or not Path(arguments.data).is_dir():
        raise SalstmError(f"--data must be the folder of the real data (or set SALSTM_REAL_DATA), got {arguments.data}")
    for name in arguments.settings:
        setting, raw = SETTINGS[name], Path(os.environ["nnUNet_raw"])
        source, whole, used = Path(arguments.data) / setting.source, raw / setting.whole, raw / setting.dataset
        if not source.is_dir():
            raise SalstmError(f"--data must have the folder {setting.source} for {name}; there is none at {source}")
        converted = whole if setting.whole else used
        if not converted.exists():
            if setting.convert:
                _call("nnUNetv2_salstm", "convert", *setting.convert, "-i", str(source), "-d", converted.name[7:10])
            else:
                converted.symlink_to(source.absolute())
        if not used.exists():
            crop_to_labels(whole, used)
        if not is_preprocessed(_preprocessed(setting.dataset), setting):
            options = ["-d", str(int(setting.dataset[7:10])), "-c", setting.configuration, "-np", "1"]
            if setting.spacing:
                options += ["-overwrite_plans_name", setting.plans]
                options += ["-overwrite_target_spacing", *map(str, setting.spacing)]
            _call("nnUNetv2_plan_and_preprocess", *options)
        if setting.host != "swin_unetr":  # which nnU-Net's plans cannot name
            write_for_nnunet(_preprocessed(setting.dataset), name)


def crop_to_labels(whole: Path, cropped: Path) -> None:
    """Copies raw data, with each image cut to what is `MARGIN` mm or less from a label within the slices."""
    import numpy as np
    import SimpleITK as sitk

    begun = cropped.with_name(f".{cropped.name}")
    shutil.rmtree(begun, ignore_errors=True)
    shutil.copytree(whole, begun)
    for file in sorted((begun / "labelsTr").glob("*.nii.gz")):
        label = sitk.ReadImage(file)
        labelled = sitk.GetArrayViewFromImage(label).any(0)  # (Y, X)
        box = []
        for axis, spacing in enumerate(label.GetSpacing()[:2]):
            inside, margin = np.flatnonzero(labelled.any(axis)), math.ceil(MARGIN / spacing)
            box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
        for path in (file, *(begun / "imagesTr").glob(file.name.replace(".nii.gz", "_*.nii.gz"))):
            sitk.WriteImage(sitk.ReadImage(path)[(*box, slice(None))], path)
    begun.rename(cropped)


def write_for_nnunet(folder: Path, name: str) -> None:
    """Writes what nnU-Net's own training needs to go by a setting: plans nnUNetPlans_<setting>, and a fold 5.

    The fold trains on what the setting trains on, and validates on every second of its test cases, as nnU-Net's
    validation takes half a minute a case on one core.
    """
    from small_training import SETTINGS, Data, small_plans

    setting = SETTINGS[name]
    plans = small_plans(json.loads((folder / f"{setting.plans}.json").read_text()), setting)
    plans["plans_name"] = f"nnUNetPlans_{name}"
    (folder / f"nnUNetPlans_{name}.json").write_text(json.dumps(plans, indent=4) + "\n")
    data = Data(folder, setting)
    folds = [*data.splits[:5], {"train": data.training_cases, "val": data.test_cases[::2]}]
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=4) + "\n")


def is_preprocessed(folder: Path, setting: "Setting") -> bool:
    """Returns whether nnU-Net has preprocessed all cases of a data set for a setting."""
    file = folder / "dataset.json"
    cases = len(list((folder / f"{setting.plans}_{setting.configuration}").glob("*.pkl")))
    return file.is_file() and cases == json.loads(file.read_text())["numTraining"]


def _call(*command: str) -> None:
    program = Path(sys.executable).with_name(command[0])
    if subprocess.run([str(program), *command[1:]], stdin=subprocess.DEVNULL).returncode:
        raise SalstmError(f"{' '.join(command)} failed, see above")


def _preprocessed(dataset: str) -> Path:
    return Path(os.environ["nnUNet_preprocessed"]) / dataset


def run(arguments: argparse.Namespace) -> None:
    """Trains all combinations that have no result yet, in several processes."""
    set_folders(arguments.work)
    check_settings(arguments.settings)
    from small_training import SETTINGS, parse_method

    for method in arguments.methods:
        try:
            parse_method(method)
        except ValueError as error:
            raise SalstmError(str(error)) from None
    if min(arguments.steps) < 1 or min(arguments.seeds) < 0 or arguments.workers < 1:
        raise SalstmError("--steps and --workers must be at least 1, and --seeds at least 0")
    for name in arguments.settings:
        setting = SETTINGS[name]
        data = _preprocessed(setting.dataset)
        if not is_preprocessed(data, setting):
            raise SalstmError(f"{name} lacks preprocessed data in {data}; run first: small_study.py prepare {name}")
    runs = list(itertools.product(arguments.settings, arguments.steps, arguments.seeds, arguments.methods))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_on, args=(runs, arguments)) for _ in range(arguments.workers)]
    for worker in workers:
        worker.start()
    (arguments.work / f"pids-{os.getpid()}").write_text(" ".join(str(worker.pid) for worker in workers))
    for worker in workers:
        worker.join()
    (arguments.work / f"pids-{os.getpid()}").unlink()
    missing = [path for path in (path_of(arguments.results, *r) for r in runs) if not path.is_file()]
    if missing:
        raise SalstmError(
            f"{len(missing)} runs have no result (failed, or under way elsewhere), such as {missing[0].name}"
        )


def path_of(results: Path, setting: str, steps: int, seed: int, method: str) -> Path:
    """Returns the file of a run."""
    return results / setting / f"{method}-{steps}-seed{seed}.json"


def work_on(runs: list[tuple[str, int, int, str]], arguments: argparse.Namespace) -> None:
    """Trains, one after the other, the runs that nobody else has claimed; a worker process."""
    os.nice(NICE)
    import torch
    from small_training import SETTINGS, Data, train

    torch.set_num_threads(1)
    for setting, steps, seed, method in runs:
        path = path_of(arguments.results, setting, steps, seed, method)
        with claimed(arguments.work / "locks" / f"{setting}-{path.stem}") as is_mine:
            if not is_mine or path.is_file():
                continue
            kept = arguments.work / "unfinished" / setting / f"{path.stem}.pth"
            print(f"{setting} {path.stem}: {'goes on' if kept.is_file() else 'starts'}", flush=True)
            try:
                data = Data(_preprocessed(SETTINGS[setting].dataset), SETTINGS[setting])
                values = {"setting": setting, **train(data, method, steps, seed, kept)}
            except Exception:  # the others go on, and the end says what is missing
                traceback.print_exc()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_suffix(".new")
            written.write_text(to_json(values))
            written.replace(path)
            kept.unlink()
            seconds = sum(values["cpu_seconds"].values())
            print(f"{setting} {path.stem}: Dice {values['dice']:.4f}, {seconds} s of one core", flush=True)


def to_json(values: dict) -> str:
    """Returns a run as JSON, one entry a line, as compact as can be read."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Says whether a run was free; it is then this process's until the context closes, or the process dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    sys.exit(main())
