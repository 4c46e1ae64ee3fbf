"""The numbers of a benchmark and their ratios to the stock network."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.host.configurations import BenchPlan

if TYPE_CHECKING:
    import pandas

FORMAT = 1
BASELINE = "nnUNetTrainerSALSTMOff"
TIMED = ("training_step", "inference_tile")
QUANTITIES = ("parameters", "flops", *TIMED, "peak_memory", "first_step_seconds")


@dataclass(frozen=True)
class Measurement:
    """What was measured for a trainer on a plan; sizes as in `nnunetv2_salstm.evaluation.measure.Size`.

    Attributes:
        plan, configuration, trainer: which.
        patch_size: in voxels.
        batch_size: samples in a training step.
        compiled: whether nnU-Net compiled the network for training.
        training_step, inference_tile: seconds, one value a round.
        error: why the values are missing, None where they are not.
    """

    plan: str
    configuration: str
    trainer: str
    patch_size: list[int]
    batch_size: int | None = None
    compiled: bool | None = None
    parameters: int | None = None
    flops: int | None = None
    peak_memory: int | None = None
    first_step_seconds: float | None = None
    training_step: list[float] | None = None
    inference_tile: list[float] | None = None
    error: str | None = None

    @classmethod
    def make(cls, plan: BenchPlan, trainer: str, values: Mapping[str, Any]) -> "Measurement":
        """Returns the measurement of what the processes found."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        patch = PlansManager(plan.plans).get_configuration(plan.configuration).patch_size
        return cls(plan.name, plan.configuration, trainer, list(patch), **values)

    def value(self, quantity: str) -> float | None:
        """Returns a quantity, the median over the rounds where it was timed."""
        found: list[float] | float | None = getattr(self, quantity)
        return median(found) if isinstance(found, list) else found


@dataclass(frozen=True)
class Ratio:
    """Ratio of medians to the stock network, and the range of the rounds' own ratios, None where there are none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """All measurements of a run, and what they were obtained with."""

    command: str
    repeats: int
    versions: dict[str, str]
    hardware: dict[str, str | int]
    measurements: list[Measurement]

    def ratio(self, measurement: Measurement, quantity: str) -> Ratio | None:
        """Returns a quantity relative to the stock network's on the same plan, None where one of them is missing."""
        baseline = next((m for m in self.measurements if m.plan == measurement.plan and m.trainer == BASELINE), None)
        ours = measurement.value(quantity)
        theirs = baseline.value(quantity) if baseline else None
        if ours is None or not theirs:
            return None
        if quantity not in TIMED:
            return Ratio(ours / theirs)
        rounds = [a / b for a, b in zip(getattr(measurement, quantity), getattr(baseline, quantity), strict=True)]
        return Ratio(ours / theirs, min(rounds), max(rounds))

    @property
    def trainers(self) -> list[str]:
        """The trainers in the order in which they were named."""
        return list(dict.fromkeys(m.trainer for m in self.measurements))

    @property
    def plans(self) -> list[str]:
        """The plans in the order in which they were named."""
        return list(dict.fromkeys(m.plan for m in self.measurements))

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns, by trainer and quantity, the geometric mean of the ratios over the plans, and the worst."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for trainer in self.trainers:
            if trainer == BASELINE:
                continue
            rows = [m for m in self.measurements if m.trainer == trainer]
            for quantity in QUANTITIES:
                ratios = [ratio.value for ratio in (self.ratio(row, quantity) for row in rows) if ratio is not None]
                if ratios:
                    values = {"mean": geometric_mean(ratios), "worst": max(ratios), "plans": len(ratios)}
                    found.setdefault(trainer, {})[quantity] = values
        return found

    def frame(self) -> "pandas.DataFrame":
        """Returns a row for each measurement: which, its error, each quantity, and its ratio to the stock network.

        Ratios are in QUANTITY_ratio, and the range over the rounds in QUANTITY_low and QUANTITY_high.
        """
        import pandas

        rows = []
        for m in self.measurements:
            row: dict[str, Any] = {name: getattr(m, name) for name in ("plan", "trainer", "patch_size", "batch_size")}
            row |= {"compiled": m.compiled, "error": m.error}
            for quantity in QUANTITIES:
                ratio = self.ratio(m, quantity)
                row[quantity] = m.value(quantity)
                row[f"{quantity}_ratio"] = ratio.value if ratio else None
                row[f"{quantity}_low"] = ratio.low if ratio else None
                row[f"{quantity}_high"] = ratio.high if ratio else None
            rows.append(row)
        return pandas.DataFrame(rows)

    def to_json(self) -> str:
        """Returns everything, for programs."""
        measurements = []
        for measurement in self.measurements:
            ratios = {quantity: self.ratio(measurement, quantity) for quantity in QUANTITIES}
            known = {quantity: asdict(ratio) for quantity, ratio in ratios.items() if ratio is not None}
            measurements.append({**asdict(measurement), "ratio": known})
        values = {**asdict(self), "measurements": measurements, "summary": self.summary(), "baseline": BASELINE}
        return json.dumps({"format": FORMAT, **values}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Benchmark":
        """Returns the benchmark of `to_json`."""
        values = json.loads(text)
        measurements = [
            Measurement(**{name: value for name, value in row.items() if name != "ratio"})
            for row in values["measurements"]
        ]
        return cls(values["command"], values["repeats"], values["versions"], values["hardware"], measurements)
