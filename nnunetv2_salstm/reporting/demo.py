"""The numbers of a demo, computed once, and how they are written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from nnunetv2_salstm.commands.demo_settings import Settings
from nnunetv2_salstm.converters.phantom import STRUCTURES
from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.tables import markdown_table

FORMAT = 1


@dataclass(frozen=True)
class ArmResult:
    """What came out for one network.

    Attributes:
        arm, trainer: its name in the table, and its trainer's.
        dice: mean over the test cases of each structure's Dice, as nnU-Net computes it.
        dice_per_case: the same for each test case; None where a structure is neither there nor predicted.
        seconds_per_iteration: median over the epochs of nnU-Net's epoch time, divided by the training iterations.
        parameters: number of the network's parameters.
    """

    arm: str
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
        arm: str,
        trainer: str,
        summary: Mapping[str, Any],
        logging: Mapping[str, Any],
        iterations: int,
        parameters: int,
    ) -> "ArmResult":
        """Reads the result from nnU-Net's summary.json and from the log in its checkpoint."""
        times = zip(logging["epoch_start_timestamps"], logging["epoch_end_timestamps"], strict=True)
        return cls(
            arm,
            trainer,
            {name: summary["mean"][str(label)]["Dice"] for name, label in STRUCTURES.items()},
            {
                Path(case["prediction_file"]).name: {
                    name: case["metrics"][str(label)]["Dice"] for name, label in STRUCTURES.items()
                }
                for case in summary["metric_per_case"]
            },
            median(end - start for start, end in times) / iterations,
            parameters,
        )


@dataclass(frozen=True)
class Report:
    """All results of a demo and what they were obtained with; the first is the one that others are compared with."""

    results: list[ArmResult]
    settings: Settings
    plan: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, str | int]

    @classmethod
    def make(cls, results: list[ArmResult], settings: Settings, device: str, plan: Mapping[str, Any]) -> "Report":
        """Returns the report of results obtained in this process, on this machine."""
        sizes = {name: plan[name] for name in ("patch_size", "batch_size", "spacing")}
        return cls(results, settings, sizes, package_versions(), describe_hardware(device))

    def to_table(self) -> str:
        """Returns the table, in Markdown that is aligned for the console."""
        stock = self.results[0].parameters
        rows = [["network", *STRUCTURES, "mean", "s / iteration", "parameters", "ratio"]]
        for result in self.results:
            dice = [*result.dice.values(), result.mean_dice]
            rows.append([
                result.arm,
                *(f"{value:.3f}" for value in dice),
                f"{result.seconds_per_iteration:.2f}",
                f"{result.parameters:,}",
                f"{result.parameters / stock:.2f}",
            ])  # fmt: skip
        return markdown_table(rows)

    def caveat(self) -> str:
        """Returns what the table means, and what it does not."""
        settings = self.settings
        return (
            f"Dice: nnU-Net's, mean over {settings.test_cases} test phantoms, after {settings.epochs} epochs of "
            f"{settings.iterations} iterations. So short a training on phantoms shows that everything works. It says "
            "nothing about accuracy on real data, and differences between the rows are noise. Seconds per iteration: "
            "median epoch time in nnU-Net's log divided by the training iterations; it includes the epoch's validation "
            "and the augmentation, and varies with what else the machine does."
        )

    def to_markdown(self) -> str:
        """Returns the report for readers."""
        plan = self.plan
        settings = {
            "training": f"{self.settings.training_cases} cases, fold 0, seed {self.settings.seed}",
            "patch": f"{' x '.join(map(str, plan['patch_size']))} voxels, {plan['batch_size']} a batch",
            "spacing": f"{' x '.join(f'{edge:g}' for edge in plan['spacing'])} mm",
            "prediction": f"{'with' if self.settings.mirroring else 'without'} mirroring",
            **self.hardware,
            **self.versions,
        }
        lines = [f"- {name}: {value}" for name, value in settings.items()]
        trainers = [f"- {result.arm}: `{result.trainer}`" for result in self.results]
        return "\n".join([
            "# nnUNetv2_salstm demo", "", self.to_table(), "", self.caveat(), "", "Trainers:", "", *trainers,
            "", "Made with:", "", *lines, "",
        ])  # fmt: skip

    def to_json(self) -> str:
        """Returns the report for programs."""
        stock = self.results[0].parameters
        networks = [
            {**asdict(result), "mean_dice": result.mean_dice, "parameters_ratio": result.parameters / stock}
            for result in self.results
        ]
        values = {**asdict(self), "results": networks}
        return json.dumps({"format": FORMAT, "caveat": self.caveat(), **values}, indent=2) + "\n"
