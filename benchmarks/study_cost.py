"""Estimates GPU hours, disk and the time in the queue of studies on the paper's data sets, before anything is trained.

    python benchmarks/study_cost.py --out docs/results/study_cost.json --figure docs/figures/study_queue.svg

Tasks, their order and what they wait for are those of `nnUNetv2_salstm matrix`, expanded on folders of empty files.
How long a training of the stock network takes is published for an A100 (--hours published), or follows from a benchmark
of ours (other --hours); what an arm takes more, and a tile less, is measured. docs/scale.md explains it and shows the
tables that this prints.
"""

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from list_scheduler import Job, critical_path, gpu_hours, schedule

ROOT = Path(__file__).parents[1]
STUDIES = [ROOT / "examples" / "studies" / f"paper_{name}.yaml" for name in ("volumes", "pictures")]
BENCHMARKS = [ROOT / "docs" / "results" / f"bench_{name}.json" for name in ("cpu", "cpu_large")]


@dataclass(frozen=True)
class DataSet:
    """What of a data set decides its costs.

    Attributes:
        name: as `nnUNetv2_salstm convert` writes it.
        training, test: numbers of cases.
        labelled: whether the test cases have labels.
        channels, labels: of an image; labels besides the background.
        shapes: of a median case by configuration, in voxels after resampling.
        presets: of `nnUNetv2_salstm bench` by configuration.
        cpu_seconds: of one core to read, resample and write a case; assumed.
        compression: of the preprocessed files.
        prediction_megabytes: of a case's predicted labels.
    """

    name: str
    training: int
    test: int
    labelled: bool
    channels: int
    labels: int
    shapes: dict[str, tuple[int, ...]]
    presets: dict[str, str]
    cpu_seconds: float
    compression: float
    prediction_megabytes: float


# Compression and predictions: of samples of the real data sets after nnUNetv2_preprocess (80 cases of ACDC, 60 of ISIC,
# 48 of CVC); those of Synapse are assumed. Shapes: of median cases, ISIC at --max-size 512.
DATASETS = {
    "27": DataSet(
        "ACDC", 200, 100, True, 1, 3,
        {"3d_fullres": (18, 237, 208), "2d": (9, 237, 208)}, {"3d_fullres": "acdc3d", "2d": "acdc2d"},
        2.0, 0.44, 0.1,
    ),
    "703": DataSet(
        "Synapse", 30, 20, False, 1, 13,
        {"3d_fullres": (148, 512, 512), "2d": (148, 512, 512)}, {"3d_fullres": "btcv3d", "2d": "isic2d"},
        60.0, 0.5, 1.0,
    ),
    "701": DataSet("ISIC2018", 2594, 1100, True, 3, 1, {"2d": (1, 384, 512)}, {"2d": "isic2d"}, 0.5, 0.27, 0.02),
    "702": DataSet("CVC-ClinicDB", 612, 0, False, 3, 1, {"2d": (1, 288, 384)}, {"2d": "isic2d"}, 0.5, 0.2, 0.02),
}  # fmt: skip

# One training of 1000 epochs, stock network, 3d_fullres, one A100 40 GB PCIe: Isensee et al. 2024, arXiv 2404.09556,
# and documentation/resenc_presets.md of nnU-Net.
ANCHOR_HOURS, ANCHOR_PRESET, ANCHOR_EPOCHS = 9.0, "acdc3d", 1000
# Seconds an epoch, A100 40 GB, Task002, 003 and 005 of the Medical Segmentation Decathlon: documentation/
# expected_epoch_times.md of nnU-Net.
EPOCH_SECONDS = {"2d": (40.06, 39.71, 42.21), "3d_fullres": (51.17, 44.48, 47.19)}
# nnU-Net's own.
ITERATIONS, VALIDATION_ITERATIONS = 250, 50
BASELINE = "nnUNetTrainerSALSTMOff"
# Where they are not measured: BDC-LSTM is module A without its attention, the convolution has A's number of parameters.
LIKE = {"nnUNetTrainerBDCLSTM": "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTMConvControl": "nnUNetTrainerSALSTM_A"}

# Assumed: from the start of a job until the first epoch, hours; processes that export predictions.
START, EXPORTERS = 5 / 60, 3
FOLDS = 5
CORES_PER_GPU = 16
GPUS = (1, 8, 64)
LIMITS = (2, 4, 8, 12, 24)
HOURS = {
    "published": "9 h for every 3d_fullres plan, and 2d in proportion to published epochs",
    "flops": "9 h for ACDC 3d_fullres, others in proportion to counted FLOPs of a batch",
    "steps": "9 h for ACDC 3d_fullres, others in proportion to measured steps",
    "measured": "the benchmarks' steps as they are, of the GPU that will be used",
}
# What can be compared without the GPU at hand.
READINGS = ("published", "flops", "steps")


class Costs:
    """How long tasks take, from a reading of the hours of a stock training and from benchmarks."""

    def __init__(self, reports, hours, arms_cost=True):
        self.reports, self.hours = reports, hours
        # The largest of all plans, as the differences between plans are mostly noise.
        self.time_ratio = self.worst_ratios("training_step")
        if not arms_cost:
            self.time_ratio = dict.fromkeys(self.time_ratio, 1.0)
        self.parameter_ratio = self.worst_ratios("parameters")

    def worst_ratios(self, quantity):
        found = {BASELINE: 1.0}
        for report in self.reports:
            for trainer, quantities in report.summary().items():
                found[trainer] = max(found.get(trainer, 1.0), quantities[quantity]["worst"])
        return {**{control: found[module] for control, module in LIKE.items() if module in found}, **found}

    def stock(self, preset):
        """Returns the benchmark of the stock network."""
        found = [m for report in self.reports for m in report.measurements if (m.plan, m.trainer) == (preset, BASELINE)]
        if not found or found[0].error is not None:
            raise SystemExit(f"the benchmarks have no {BASELINE} on {preset}; measure it, or name another --bench")
        return found[0]

    def batch(self, preset):
        from nnunetv2_salstm.host.presets import PRESETS

        return PRESETS[preset]["batch_size"]

    def epoch_seconds(self, preset):
        """Returns what an epoch takes on the benchmark's machine, with the plan's batch."""
        stock, batch = self.stock(preset), self.batch(preset)
        step = stock.value("training_step") * batch / stock.batch_size
        return ITERATIONS * step + VALIDATION_ITERATIONS * batch * stock.value("inference_tile")

    def stock_hours(self, preset, hours=None):
        """Returns the hours of 1000 epochs of the stock network."""
        match hours or self.hours:
            case "published":
                from nnunetv2_salstm.host.presets import PRESETS, name_of

                seconds = EPOCH_SECONDS[name_of(PRESETS[preset])]
                return ANCHOR_HOURS * mean(seconds) / mean(EPOCH_SECONDS["3d_fullres"])
            case "flops":
                flops = [self.stock(name).flops * self.batch(name) for name in (preset, ANCHOR_PRESET)]
                return ANCHOR_HOURS * flops[0] / flops[1]
            case "steps":
                return ANCHOR_HOURS * self.epoch_seconds(preset) / self.epoch_seconds(ANCHOR_PRESET)
        return self.epoch_seconds(preset) * ANCHOR_EPOCHS / 3600

    def tile_seconds(self, preset, trainer):
        """Returns what a tile takes, the same share of an epoch as in the benchmark."""
        share = self.stock(preset).value("inference_tile") / self.epoch_seconds(preset)
        return share * self.stock_hours(preset) * 3600 / ANCHOR_EPOCHS * self.time_ratio[trainer]

    def case_hours(self, data, configuration, trainer):
        """Returns the GPU's hours and the exporters' for a case, with mirroring along every axis."""
        from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

        from nnunetv2_salstm.host.presets import PRESETS

        preset = data.presets[configuration]
        patch = PRESETS[preset]["patch_size"]
        shape = data.shapes[configuration][-len(patch) :]
        slices = math.prod(data.shapes[configuration][: -len(patch)])
        padded = tuple(map(max, shape, patch))
        tiles = slices * math.prod(map(len, compute_steps_for_sliding_window(padded, tuple(patch), 0.5)))
        on_gpu = tiles * 2 ** len(patch) * self.tile_seconds(preset, trainer)
        return on_gpu / 3600, data.cpu_seconds / EXPORTERS / 3600

    def training(self, data, configuration, trainer, epochs):
        """Returns the hours of a training's epochs."""
        return self.stock_hours(data.presets[configuration]) * self.time_ratio[trainer] * epochs / ANCHOR_EPOCHS

    def epoch_hours(self, expanded):
        """Returns the hours of all epochs, without starts, validations and predictions."""
        from nnunetv2_salstm.study.study import epochs_of, split_trainer

        return sum(
            self.training(
                DATASETS[task.dataset.number],
                task.configuration,
                split_trainer(task.trainer)[0],
                epochs_of(task.trainer),
            )
            for _, tasks in expanded
            for task in tasks
            if task.kind == "train"
        )

    def of(self, task, study):
        """Returns the hours of a task."""
        from nnunetv2_salstm.study.study import epochs_of, split_trainer

        data, cpus = DATASETS[task.dataset.number], task.resources.cpus
        if task.kind == "preprocess":
            # The fingerprint, then every configuration.
            return data.training * data.cpu_seconds * (1 + len(task.configurations)) / cpus / 3600
        if task.kind == "report":
            # Seconds: it reads the comparisons.
            return 0.0
        if task.kind == "compare":
            runs = sum(len(study.runs_of(trainer)) for trainer in study.trainers)
            cases = data.test if task.name.endswith("__test") else data.training * len(study.folds) / FOLDS
            return cases * runs * data.cpu_seconds / cpus / 3600
        trainer = split_trainer(task.trainer)[0]
        on_gpu, export = self.case_hours(data, task.configuration, trainer)
        if task.kind == "predict":
            cases = len(range(task.part, data.test, task.num_parts))
            return START + cases * (on_gpu * len(task.folds) + export)
        epochs = epochs_of(task.trainer)
        training = self.training(data, task.configuration, trainer, epochs)
        hours = task.resources.hours
        return under_limit(training, hours, training * between_checkpoints(epochs))[1] + data.training / FOLDS * (
            on_gpu + export
        )


def between_checkpoints(epochs):
    """Returns which part of a training lies between two checkpoints of our trainers."""
    from nnunetv2_salstm.trainers import SAVE_EVERY

    return max(1, min(SAVE_EVERY, epochs // 20)) / epochs


def under_limit(hours, limit, interval):
    """Returns in how many jobs a training is made that is cut at a time limit, and their hours together.

    Args:
        hours: of its epochs.
        limit: of a job, of which START are gone before the first epoch.
        interval: hours between two checkpoints; what lies behind the last one is lost.
    """
    kept = math.floor(round((limit - START) / interval, 9)) * interval
    jobs, left = 1, hours
    while left > limit - START:
        if kept <= 0:
            raise SystemExit(
                f"a limit of {limit} h is shorter than a start and {interval:.2f} h to the first checkpoint"
            )
        jobs, left = jobs + 1, left - kept
    return jobs, (jobs - 1) * limit + START + left


@contextmanager
def empty_datasets():
    """Makes nnU-Net's folders with the data sets' test cases, in empty files, as the matrix counts them."""
    with tempfile.TemporaryDirectory() as folder:
        before = {name: os.environ.get(f"nnUNet_{name}") for name in ("raw", "preprocessed", "results")}
        for name in before:
            os.environ[f"nnUNet_{name}"] = f"{folder}/{name}"
            Path(folder, name).mkdir()
        for number, data in DATASETS.items():
            raw = Path(folder, "raw", f"Dataset{int(number):03d}_{data.name}")
            # The cases to train on are not looked at before they are preprocessed.
            (raw / "imagesTs").mkdir(parents=True)
            for case in range(data.test):
                (raw / "imagesTs" / f"case{case:04d}_0000.nii.gz").touch()
            if data.labelled:
                (raw / "labelsTs").mkdir()
            (raw / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(f"nnUNet_{name}")
                if value is not None:
                    os.environ[f"nnUNet_{name}"] = value


def tasks_of(studies):
    """Returns every study with its tasks; for `empty_datasets`."""
    from nnunetv2_salstm.study.tasks import expand

    unknown = {name for study in studies for name in study.datasets} - DATASETS.keys()
    if unknown:
        raise SystemExit(f"no figures for the data sets {', '.join(sorted(unknown))}; known: {', '.join(DATASETS)}")
    return [(study, expand(study, Path("study"))) for study in studies]


def jobs_of(expanded, costs):
    """Returns the jobs in the order in which `matrix --executor slurm` submits them: arrays that wait for the same."""
    jobs = []
    for study, tasks in expanded:
        arrays = {}
        for task in tasks:
            arrays.setdefault((task.kind, task.dataset.name, *task.after), []).append(task)
        for number, array in enumerate(arrays.values()):
            jobs += [
                Job(
                    task.name,
                    f"{study.name} {number}",
                    costs.of(task, study),
                    task.resources.gpus,
                    task.resources.cpus,
                    task.after,
                    study.slurm.parallel,
                )
                for task in array
            ]
    return jobs


def queue(jobs, gpus):
    """Returns how long jobs take on so many GPUs, what bounds it, and when how many GPUs are busy."""
    times = schedule(jobs, gpus, gpus * CORES_PER_GPU)
    hours = max(end for _, end in times.values())
    last_start = max(start for name, (start, _) in times.items() if name.startswith("train"))
    return {
        "gpus": gpus,
        "days": round(hours / 24, 2),
        "busy": round(gpu_hours(jobs) / (hours * gpus), 3),
        "work_days": round(gpu_hours(jobs) / gpus / 24, 2),
        "critical_path_days": round(critical_path(jobs) / 24, 2),
        "last_training_starts_days": round(last_start / 24, 2),
    }


def disk(expanded, costs):
    """Returns the gigabytes that every data set needs."""
    from nnunetv2_salstm.study.study import split_trainer

    rows = []
    for number, data in DATASETS.items():
        tasks = [task for _, all_tasks in expanded for task in all_tasks if task.dataset.number == number]
        made = [task for task in tasks if task.kind == "train"]
        if not made:
            continue
        configurations = {task.configuration for task in made}
        voxels = sum(math.prod(data.shapes[name]) for name in configurations)
        # Images in float32, labels in int16, and for each label where some of its voxels lie: 0.3 MB, measured.
        images = voxels * (4 * data.channels + 2) * data.compression
        preprocessed = data.training * (images + len(configurations) * data.labels * 0.3e6)
        parameters = sum(
            costs.stock(data.presets[task.configuration]).parameters
            * costs.parameter_ratio[split_trainer(task.trainer)[0]]
            for task in made
        )
        tested = sum(len(task.predictions) for task in tasks if task.kind == "predict")
        predicted = len(made) * data.training / FOLDS + tested
        rows.append(
            {
                "dataset": data.name,
                "preprocessed_gb": round(preprocessed / 1e9, 1),
                # The final and the best one, each with weights and momentum of four bytes.
                "checkpoints_gb": round(2 * 8 * parameters / 1e9, 1),
                "predictions_gb": round(predicted * data.prediction_megabytes / 1e3, 1),
            }
        )
    return rows


def cuts_of(studies):
    """Returns what can be left out, and the studies without it."""

    def all_with(**values):
        return [replace(study, **values) for study in studies]

    def without(trainer):
        return all_with(trainers=tuple(name for name in studies[0].trainers if not name.endswith(trainer)))

    # Those of pictures have no other.
    one = [
        replace(study, configurations=tuple(name for name in study.configurations if name != "2d") or ("2d",))
        for study in studies
    ]
    seeds, folds = studies[0].seeds, studies[0].folds
    found = {
        "nothing": studies,
        "2D of the volumes": one,
        "CVC-ClinicDB": [
            replace(study, datasets=kept)
            for study in studies
            if (kept := tuple(name for name in study.datasets if name != "702"))
        ],
        "BDC-LSTM": without("BDCLSTM"),
        "the third seed": all_with(seeds=seeds[:2]),
        "2D and the third seed": [replace(study, seeds=seeds[:2]) for study in one],
        "all seeds but one": all_with(seeds=seeds[:1]),
        "the convolution": without("ConvControl"),
        "folds 2 to 4": all_with(folds=folds[:2]),
        "epochs beyond 250": all_with(epochs=250),
    }
    # Each once, of a study that has no more to cut.
    return {name: left for name, left in found.items() if left not in [*found.values()][: [*found].index(name)]}


def cuts(studies, costs):
    """Returns what each cut leaves, and how much wider the noise gets."""
    rows = []
    for name, left in cuts_of(studies).items():
        expanded = tasks_of(left)
        jobs = jobs_of(expanded, costs)
        runs, folds = [(max(1, len(s.seeds)) * len(s.folds), len(s.folds)) for s in (studies[0], left[0])]
        rows.append(
            {
                "cut": name,
                "trainings": len([job for job in jobs if job.name.startswith("train")]),
                "gpu_hours": round(gpu_hours(jobs)),
                "saved": round(1 - gpu_hours(jobs) / (rows[0]["gpu_hours"] if rows else gpu_hours(jobs)), 2),
                "noise_of_trainings": round(math.sqrt(runs[0] / folds[0]), 2),
                "interval_over_cases": round(math.sqrt(runs[1] / folds[1]), 2),
            }
        )
    return rows


def limits(costs, arms):
    """Returns what time limits cost the longest training."""
    hours = costs.stock_hours(ANCHOR_PRESET) * max(costs.time_ratio[trainer] for trainer in arms)
    rows = []
    for limit in LIMITS:
        jobs, held = under_limit(hours, limit, hours * between_checkpoints(ANCHOR_EPOCHS))
        rows.append({"limit": limit, "jobs": jobs, "gpu_hours": round(held, 1), "more": round(held / hours - 1, 3)})
    return {"training_hours": round(hours, 1), "rows": rows}


def configurations(expanded, jobs, costs):
    """Returns the trainings of each data set and configuration."""
    hours = {job.name: job.hours for job in jobs}
    rows = {}
    for task in (task for _, tasks in expanded for task in tasks if task.kind == "train"):
        data = DATASETS[task.dataset.number]
        preset = data.presets[task.configuration]
        row = rows.setdefault(
            (data.name, task.configuration),
            {
                "dataset": data.name,
                "configuration": task.configuration,
                "plan": preset,
                "stock_hours": {name: round(costs.stock_hours(preset, name), 1) for name in (*READINGS, costs.hours)},
                "gpu_hours": 0.0,
            },
        )
        row["gpu_hours"] += hours[task.name]
    return [{**row, "gpu_hours": round(row["gpu_hours"])} for row in rows.values()]


def estimate(studies, reports, hours):
    """Returns everything that docs/scale.md shows."""
    from nnunetv2_salstm.study.study import split_trainer

    costs, expanded = Costs(reports, hours), tasks_of(studies)
    arms = dict.fromkeys(split_trainer(trainer)[0] for study in studies for trainer in study.trainers)
    if missing := arms.keys() - costs.time_ratio.keys():
        raise SystemExit(f"the benchmarks have no {', '.join(sorted(missing))}; measure it, or name another --bench")
    jobs = jobs_of(expanded, costs)
    kinds = {kind: [job for job in jobs if job.name.startswith(kind)] for kind in studies[0].resources}
    return {
        "hours": hours,
        "benchmarks": [{"command": r.command, "device": r.hardware["device"], "versions": r.versions} for r in reports],
        "studies": [study.name for study in studies],
        "arms": {
            trainer: {
                "time": costs.time_ratio[trainer],
                "parameters": costs.parameter_ratio[trainer],
            }
            for trainer in arms
        },
        "configurations": configurations(expanded, jobs, costs),
        "tasks": {
            kind: {
                "number": len(found),
                "gpu_hours": round(gpu_hours(found)),
                "core_hours": round(sum(job.hours * job.cpus for job in found)),
            }
            for kind, found in kinds.items()
        },
        "gpu_hours": round(gpu_hours(jobs)),
        "epoch_hours": round(costs.epoch_hours(expanded)),
        "gpu_hours_by_reading": {
            name: round(gpu_hours(jobs_of(expanded, Costs(reports, name)))) for name in (*READINGS, hours)
        },
        "gpu_hours_if_arms_cost_nothing": round(gpu_hours(jobs_of(expanded, Costs(reports, hours, arms_cost=False)))),
        "disk": disk(expanded, costs),
        "queue": [queue(jobs, gpus) for gpus in GPUS],
        "limits": limits(costs, arms),
        "cuts": cuts(studies, costs),
    }, jobs


def tables(result):
    """Returns the tables of docs/scale.md, by name."""
    from nnunetv2_salstm.tables import markdown_table

    def number(value):
        return f"{value:,.0f}".replace(",", " ")

    readings = list(result["configurations"][0]["stock_hours"])
    rows = {
        "configurations": [
            [
                "data set",
                "configuration",
                "plan",
                *(f"{name}, h" for name in readings),
                "GPU hours",
            ],
            *(
                [
                    *(str(row[key]) for key in ("dataset", "configuration", "plan")),
                    *(f"{row['stock_hours'][name]:.1f}" for name in readings),
                    number(row["gpu_hours"]),
                ]
                for row in result["configurations"]
            ),
        ],
        "tasks": [
            ["task", "number", "GPU hours", "core hours"],
            *(
                [kind, number(row["number"]), number(row["gpu_hours"]), number(row["core_hours"])]
                for kind, row in result["tasks"].items()
            ),
        ],
        "readings": [
            ["a stock training takes", "GPU hours in all"],
            *([HOURS[name], number(hours)] for name, hours in result["gpu_hours_by_reading"].items()),
            [
                f"as --hours {result['hours']}, and every arm as long as the stock network",
                number(result["gpu_hours_if_arms_cost_nothing"]),
            ],
        ],
        "disk": [
            ["data set", "preprocessed, GB", "checkpoints, GB", "predictions, GB"],
            *(
                [
                    row["dataset"],
                    *(f"{row[f'{name}_gb']:.1f}" for name in ("preprocessed", "checkpoints", "predictions")),
                ]
                for row in result["disk"]
            ),
        ],
        "queue": [
            ["GPUs", "days", "GPUs busy", "work / GPUs", "longest chain", "last start, day"],
            *(
                [
                    str(row["gpus"]),
                    f"{row['days']:.1f}",
                    f"{row['busy']:.1%}",
                    f"{row['work_days']:.1f}",
                    f"{row['critical_path_days']:.2f}",
                    f"{row['last_training_starts_days']:.1f}",
                ]
                for row in result["queue"]
            ),
        ],
        "limits": [
            ["limit, h", "jobs", "GPU hours", "more"],
            *(
                [str(row["limit"]), str(row["jobs"]), f"{row['gpu_hours']:.1f}", f"{row['more']:.1%}"]
                for row in result["limits"]["rows"]
            ),
        ],
        "cuts": [
            [
                "left out",
                "trainings",
                "GPU hours",
                "saved",
                "noise",
                "interval",
            ],
            *(
                [
                    row["cut"],
                    str(row["trainings"]),
                    number(row["gpu_hours"]),
                    f"{row['saved']:.0%}",
                    f"x {row['noise_of_trainings']:.2f}",
                    f"x {row['interval_over_cases']:.2f}",
                ]
                for row in result["cuts"]
            ),
        ],
    }
    return {
        name: markdown_table(values, text_columns=3 if name == "configurations" else 1) for name, values in rows.items()
    }


def busy_gpus(jobs, names, gpus):
    """Returns the hours at which it changes how many GPUs are busy with each data set, and these numbers."""
    changes = {}
    held = {job.name: job.gpus for job in jobs if job.gpus}
    times = schedule(jobs, gpus, gpus * CORES_PER_GPU)
    for name in held:
        for moment, sign in zip(times[name], (1, -1), strict=True):
            changes.setdefault(moment, []).append((name, sign))
    moments, busy, now = [], [], dict.fromkeys(names, 0)
    for moment in sorted(changes):
        for job, sign in changes[moment]:
            (name,) = (name for name in names if f"_{name}__" in job)
            now[name] += sign * held[job]
        if not busy or busy[-1] != [*now.values()] or moment == max(changes):
            moments.append(moment)
            busy.append([*now.values()])
    return moments, busy


def draw(jobs, rows):
    """Draws how many GPUs are busy with which data set, on each number of GPUs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        names = [data.name for data in DATASETS.values() if any(f"_{data.name}__" in job.name for job in jobs)]
        moments, busy = busy_gpus(jobs, names, row["gpus"])
        axes.stackplot(
            [moment / 24 for moment in moments], *zip(*busy, strict=True), labels=names, step="post", linewidth=0
        )
        axes.set_xlim(0, row["days"])
        axes.set_ylim(0, row["gpus"] * 1.02)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("days")
        axes.set_title(f"{row['gpus']} GPU{'s' * (row['gpus'] > 1)}: {row['days']:.1f} days", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("GPUs busy")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="*", default=STUDIES, help="study files of nnUNetv2_salstm matrix")
    parser.add_argument("--bench", type=Path, nargs="+", default=BENCHMARKS, help="JSON files of nnUNetv2_salstm bench")
    parser.add_argument(
        "--hours", choices=HOURS, default="published", help="; ".join(f"{name}: {what}" for name, what in HOURS.items())
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--figure", type=Path, help="file to draw")
    arguments = parser.parse_args(words)

    from nnunetv2_salstm.evaluation.benchmark import Benchmark
    from nnunetv2_salstm.host.versions import package_versions
    from nnunetv2_salstm.study.study import read_study

    studies = [read_study(file) for file in arguments.studies]
    reports = [Benchmark.from_json(file.read_text()) for file in arguments.bench]
    with empty_datasets():
        result, jobs = estimate(studies, reports, arguments.hours)
    for name, table in tables(result).items():
        print(f"{name}\n{table}\n")
    if arguments.out:
        command = shlex.join(["python", "benchmarks/study_cost.py", *(sys.argv[1:] if words is None else words)])
        written = {"command": command, "versions": package_versions(), **result}
        arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    if arguments.figure:
        from matplotlib import rc_context

        # The same names within the file each time.
        with rc_context({"svg.hashsalt": "study_queue"}):
            draw(jobs, result["queue"]).savefig(arguments.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
