"""The numbers of a demo: a few networks, trained alike for minutes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas

from nnunetv2_salstm.evaluation.runs import TrainingLog

FORMAT = 1


@dataclass(frozen=True)
class MethodResult:
    """What came out for one network.

    Attributes:
        method, trainer: its name in the table, and its trainer's.
        dice: mean over the test cases of each structure's Dice, as nnU-Net computes it.
        dice_per_case: the same for each test case; None where a structure is neither there nor predicted.
        seconds_per_iteration: median over the epochs of nnU-Net's epoch time, divided by the training iterations.
        parameters: number of the network's parameters.
    """

    method: str
    trainer: str
    dice: dict[str, float]
    dice_per_case: dict[str, dict[str, float | None]]
    seconds_per_iteration: float
    parameters: int

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures."""
        return mean(self.dice.values())

    @classmethod
    def read(
        cls,
        method: str,
        trainer: str,
        summary: Mapping[str, Any],
        log: TrainingLog,
        iterations: int,
        parameters: int,
        structures: Mapping[str, int],
    ) -> "MethodResult":
        """Reads the result from nnU-Net's summary.json and its training's log; structures are labels by name."""
        return cls(
            method,
            trainer,
            {name: summary["mean"][str(label)]["Dice"] for name, label in structures.items()},
            {
                Path(case["prediction_file"]).name: {
                    name: _known(case["metrics"][str(label)]["Dice"]) for name, label in structures.items()
                }
                for case in summary["metric_per_case"]
            },
            median(log.epoch_seconds.values()) / iterations,
            parameters,
        )


def results_frame(results: Sequence[MethodResult]) -> pandas.DataFrame:
    """Returns a row for each network: each structure's Dice, their mean, seconds, parameters, ratio to the first."""
    return pandas.DataFrame([
        {
            "network": result.method,
            **result.dice,
            "mean": result.mean_dice,
            "s / iteration": result.seconds_per_iteration,
            "parameters": result.parameters,
            "ratio": result.parameters / results[0].parameters,
        }
        for result in results
    ])  # fmt: skip


def results_json(results: Sequence[MethodResult], **about: Any) -> dict[str, Any]:
    """Returns the results and what they were obtained with, for programs."""
    stock = results[0].parameters
    networks = [
        {**asdict(result), "mean_dice": result.mean_dice, "parameters_ratio": result.parameters / stock}
        for result in results
    ]
    return {"format": FORMAT, "results": networks, **about}


def _known(value: float | None) -> float | None:
    # Where there is nothing to divide by, nnU-Net writes NaN.
    return None if value is None or pandas.isna(value) else value
