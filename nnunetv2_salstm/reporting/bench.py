"""The numbers of a benchmark, their ratios to the stock network, and how they are written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any

from nnunetv2_salstm.host.configurations import BenchPlan
from nnunetv2_salstm.tables import markdown_table

FORMAT = 1
BASELINE = "nnUNetTrainerSALSTMOff"
# Quantities by their names in the JSON: what they are called for readers, and how a value is written.
QUANTITIES = {
    "parameters": ("parameters (M)", lambda value: f"{value / 1e6:.2f}"),
    "flops": ("GFLOPs of a tile", lambda value: f"{value / 1e9:.1f}"),
    "training_step": ("s / training step", lambda value: f"{value:.3g}"),
    "inference_tile": ("s / inference tile", lambda value: f"{value:.3g}"),
    "peak_memory": ("peak memory (MB)", lambda value: f"{value / 1e6:.0f}"),
    "first_step_seconds": ("s / first step", lambda value: f"{value:.3g}"),
}
TIMED = ("training_step", "inference_tile")


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
        found = getattr(self, quantity)
        return median(found) if isinstance(found, list) else found


@dataclass(frozen=True)
class Ratio:
    """Ratio of medians to the stock network, and the range of the rounds' own ratios, None where there are none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        text = f"x {self.value:.2f}"
        return text if self.low is None else f"{text}, {self.low:.2f}-{self.high:.2f}"


@dataclass(frozen=True)
class Report:
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

    def rows(self) -> list[list[str]]:
        """Returns the table, its head first."""
        quantities = [q for q in QUANTITIES if q != "first_step_seconds" or any(m.compiled for m in self.measurements)]
        rows = [["plan", "batch", "trainer", *(QUANTITIES[quantity][0] for quantity in quantities)]]
        for m in self.measurements:
            batch = f"{m.batch_size or '-'} x {'x'.join(map(str, m.patch_size))}"
            cells = [self._cell(m, quantity) for quantity in quantities]
            if m.error is not None:
                cells = [m.error if len(m.error) < 40 else f"{m.error[:37]}...", *["-"] * (len(quantities) - 1)]
            rows.append([m.plan, batch, short_name(m.trainer), *cells])
        return rows

    def _cell(self, measurement: Measurement, quantity: str) -> str:
        value = measurement.value(quantity)
        if value is None:
            return "-"
        text = QUANTITIES[quantity][1](value)
        ratio = None if measurement.trainer == BASELINE else self.ratio(measurement, quantity)
        return text if ratio is None else f"{text} ({ratio})"

    def notes(self) -> list[str]:
        """Returns what the numbers mean."""
        notes = [
            f"Times: medians of {self.repeats} rounds in which the trainers took turns in one process. In brackets: "
            f"the ratio to {BASELINE}, and for times the smallest and largest ratio of a single round.",
            "Training step: forward, loss with deep supervision, backward, gradient clipping and optimiser, by "
            "nnU-Net's own code on synthetic data. Inference tile: forward of one patch without deep supervision.",
            "Peak memory: what building the network and two training steps added, on the CPU to the resident memory of "
            "a fresh process, on CUDA to the memory of tensors. GFLOPs: of convolutions and matrix products in the "
            "forward pass.",
        ]
        for trainer, quantities in self.summary().items():
            parts = [
                f"{QUANTITIES[name][0].removeprefix('s / ')} {values['mean']:.3f} (worst {values['worst']:.3f})"
                for name, values in quantities.items()
                if name in (*TIMED, "peak_memory", "parameters")
            ]
            notes.append(f"{trainer}, mean ratios over the plans: {', '.join(parts)}.")
        return notes

    def to_markdown(self) -> str:
        """Returns table and notes."""
        return markdown_table(self.rows(), text_columns=3) + "\n\n" + "\n".join(f"- {note}" for note in self.notes())

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
    def from_json(cls, text: str) -> "Report":
        """Returns the report of `to_json`."""
        values = json.loads(text)
        measurements = [
            Measurement(**{name: value for name, value in row.items() if name != "ratio"})
            for row in values["measurements"]
        ]
        return cls(values["command"], values["repeats"], values["versions"], values["hardware"], measurements)


def short_name(trainer: str) -> str:
    """Returns a trainer's name without what all share."""
    return trainer.removeprefix("nnUNetTrainer") or trainer
