"""Prints how many GPU hours studies take, from measured steps: python benchmarks/study_hours.py [STUDY.yaml ...]

A training of nnU-Net is 250 steps and 50 validation batches an epoch. Benchmarks (--bench) say how long these take on
their machine: with --as-measured that is the answer. Without it only ratios count, and ACDC in 3d_fullres takes the 9
hours that are published for an A100 (40 GB) and 1000 epochs: Isensee et al. 2024, arXiv 2404.09556.
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas

from nnunetv2_salstm.host.presets import PRESETS
from nnunetv2_salstm.host.trainer_names import METHODS
from nnunetv2_salstm.reporting.tables import Table, markdown_table
from nnunetv2_salstm.study.schema import Study, read_study

ROOT = Path(__file__).parents[1]
STUDIES = [ROOT / "examples" / "studies" / f"paper_{name}.yaml" for name in ("volumes", "pictures")]
BENCHMARKS = [ROOT / "docs" / "results" / f"bench_{name}.json" for name in ("cpu", "cpu_large")]
# The plans of bench that are like those of a data set. ISIC's, of larger patches, stand for CVC-ClinicDB's and for
# slices of Synapse.
PLANS = {
    ("27", "3d_fullres"): "acdc3d", ("27", "2d"): "acdc2d", ("703", "3d_fullres"): "btcv3d", ("703", "2d"): "isic2d",
    ("701", "2d"): "isic2d", ("702", "2d"): "isic2d",
}  # fmt: skip
NAMES = {"27": "ACDC", "703": "Synapse", "701": "ISIC2018", "702": "CVC-ClinicDB"}
ANCHOR, ANCHOR_HOURS, ANCHOR_EPOCHS = "acdc3d", 9.0, 1000
STEPS, VALIDATION_BATCHES = 250, 50
STOCK = "nnUNetTrainerSALSTMOff"
# Not measured: BDC-LSTM is module A without its attention, the convolution has A's number of parameters.
LIKE = {"nnUNetTrainerBDCLSTM": "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTMConvControl": "nnUNetTrainerSALSTM_A"}
GPUS = (1, 8, 64)


def epoch_seconds(benchmarks: list[Path]) -> dict[tuple[str, str], float]:
    """Returns what an epoch takes on the benchmarks' machine, by plan and trainer."""
    found = {}
    for file in benchmarks:
        for measured in json.loads(file.read_text())["measurements"]:
            if measured["error"] is None:
                batch = PRESETS[measured["plan"]]["batch_size"]
                step = median(measured["training_step"]) * batch / measured["batch_size"]
                tiles = median(measured["inference_tile"]) * batch
                found[measured["plan"], measured["trainer"]] = STEPS * step + VALIDATION_BATCHES * tiles
    return found


def hours(study: Study, seconds: dict[tuple[str, str], float], as_measured: bool) -> pandas.DataFrame:
    """Returns a row for each data set, configuration and method: trainings, hours of one."""
    unit = 1 / 3600 if as_measured else ANCHOR_HOURS / ANCHOR_EPOCHS / seconds[ANCHOR, STOCK]
    rows = []
    for dataset in study.datasets:
        for configuration in study.configurations:
            plan = PLANS[dataset, configuration]
            for method in study.trainers:
                (trainer,) = (name for name in METHODS if method.trainer.startswith(name))
                trainer = LIKE.get(trainer, trainer)
                # Where a plan was not measured with a method, the worst ratio of those that were.
                ratios = [took / seconds[p, STOCK] for (p, t), took in seconds.items() if t == trainer]
                epoch = seconds.get((plan, trainer), seconds[plan, STOCK] * max(ratios))
                trainings = len(study.folds) * len(study.runs_of(method))
                one = epoch * study.epochs_of(method) * unit
                rows.append((NAMES[dataset], configuration, method.trainer, trainings, one))
    return pandas.DataFrame(rows, columns=["data set", "configuration", "method", "trainings", "hours of one"])


def without(study: Study) -> dict[str, Study]:
    """Returns the study with parts left out, by what they are."""
    control = tuple(method for method in study.trainers if "BDCLSTM" not in method.trainer)
    changes = {
        "nothing": {},
        "2d beside 3d_fullres": {"configurations": study.configurations[:1]},
        "the last seed": {"seeds": study.seeds[:-1]},
        "all seeds but one": {"seeds": study.seeds[:1]},
        "BDC-LSTM": {"trainers": control},
        "folds 2 to 4": {"folds": study.folds[:2]},
        "epochs beyond 250": {"epochs": 250},
    }
    return {what: replace(study, **change) for what, change in changes.items()}


def main() -> None:
    """Prints the tables of docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, default=STUDIES)
    parser.add_argument("--bench", nargs="+", type=Path, default=BENCHMARKS, help="JSON files of nnUNetv2_salstm bench")
    parser.add_argument("--as-measured", action="store_true", help="hours of the benchmarks' machine, e.g. your GPU")
    arguments = parser.parse_args()
    seconds = epoch_seconds(arguments.bench)
    studies = [read_study(file) for file in arguments.studies]
    plans = {PLANS[data] for study in studies for data in itertools.product(study.datasets, study.configurations)}
    plans |= set() if arguments.as_measured else {ANCHOR}
    if absent := sorted(plan for plan in plans if (plan, STOCK) not in seconds):
        parser.error(f"--bench must have {STOCK} on {', '.join(absent)}, and does not; measure these plans too")
    tables = pandas.concat([hours(study, seconds, arguments.as_measured) for study in studies])
    tables["GPU hours"] = tables["trainings"] * tables["hours of one"]
    keys = ["data set", "configuration"]
    shown = tables.groupby(keys, sort=False).agg({"trainings": "sum", "GPU hours": "sum"})
    stock = tables[tables["method"] == STOCK].set_index(keys)["hours of one"]
    shown.insert(1, "stock, h", stock)
    formats = {"GPU hours": ".0f", "stock, h": ".1f"}
    print(markdown_table(Table(shown.reset_index(), formats=formats, text_columns=2)))
    total, longest = tables["GPU hours"].sum(), tables["hours of one"].max()
    days = {f"{count} GPU": max(total / count, longest) / 24 for count in GPUS}
    row = {"trainings": tables["trainings"].sum(), "GPU hours": total, **days}
    frame = pandas.DataFrame([row])
    print(
        "\n" + markdown_table(Table(frame, formats={"GPU hours": ".0f", **dict.fromkeys(days, ".1f")}, text_columns=0))
    )
    rows = []
    for what in without(studies[0]):
        left = pandas.concat([hours(without(study)[what], seconds, arguments.as_measured) for study in studies])
        rows.append((what, left["trainings"].sum(), (left["trainings"] * left["hours of one"]).sum()))
    cut = pandas.DataFrame(rows, columns=["left out", "trainings", "GPU hours"])
    cut["saved"] = [f"{100 * (1 - value / total):.0f}%" for value in cut["GPU hours"]]
    print("\n" + markdown_table(Table(cut, formats={"GPU hours": ".0f"})))


if __name__ == "__main__":
    main()
