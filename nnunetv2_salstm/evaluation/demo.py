"""The numbers of a demo: a few networks, trained alike for minutes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas

from nnunetv2_salstm.evaluation.runs import TrainingLog


def read_result(
    summary: Mapping[str, Any], log: TrainingLog, iterations: int, structures: Mapping[str, int]
) -> dict[str, Any]:
    """Returns JSON values about one network: Dice of each structure over the test cases and of each case, and seconds.

    Args:
        summary: nnU-Net's summary.json of the test cases.
        log: of the training; seconds per iteration are its median epoch time divided by the training iterations.
        iterations: training iterations an epoch.
        structures: labels by name.
    """

    def of_structures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
        values = {name: metrics[str(label)]["Dice"] for name, label in structures.items()}
        # Where there is nothing to divide by, nnU-Net writes NaN.
        return {name: None if pandas.isna(value) else value for name, value in values.items()}

    dice = {name: summary["mean"][str(label)]["Dice"] for name, label in structures.items()}
    return {
        "dice": dice,
        "dice_per_case": {
            Path(case["prediction_file"]).name: of_structures(case["metrics"]) for case in summary["metric_per_case"]
        },
        "mean_dice": mean(dice.values()),
        "seconds_per_iteration": median(log.epoch_seconds.values()) / iterations,
    }


def results_frame(results: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Returns a row for each network: each structure's Dice, their mean, seconds, parameters, ratio to the first."""
    return pandas.DataFrame([
        {
            "network": result["method"],
            **result["dice"],
            "mean": result["mean_dice"],
            "s / iteration": result["seconds_per_iteration"],
            "parameters": result["parameters"],
            "ratio": result["parameters_ratio"],
        }
        for result in results
    ])  # fmt: skip
