"""The numbers of a benchmark and their ratios to the stock network."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.host.files import plain

if TYPE_CHECKING:
    import pandas

FORMAT = 1
BASELINE = "nnUNetTrainerSALSTMOff"
TIMED = ("training_step", "inference_tile")
QUANTITIES = ("parameters", "flops", *TIMED, "peak_memory", "first_step_seconds")


@dataclass(frozen=True)
class Benchmark:
    """All measurements of a run, and what they were obtained with.

    Attributes:
        command: that made it.
        repeats: timed rounds.
        versions, hardware: by name.
        measurements: of each plan and trainer, plan, configuration, trainer, patch_size in voxels, batch_size, compiled
            and the QUANTITIES (see `measure.measure_size`; of those TIMED seconds, one a round), and error, why values
            are missing, None where they are not.
    """

    command: str
    repeats: int
    versions: dict[str, str]
    hardware: dict[str, str | int]
    measurements: list[dict[str, Any]]

    def frame(self) -> "pandas.DataFrame":
        """Returns a row for each measurement: which, its error, each quantity, and its ratio to the stock network.

        Times and their ratios are of medians. Ratios are in QUANTITY_ratio, and the range over the rounds' own ratios
        in QUANTITY_low and QUANTITY_high.
        """
        import pandas

        stock = {m["plan"]: m for m in self.measurements if m["trainer"] == BASELINE}
        rows = []
        for m in self.measurements:
            names = ("plan", "trainer", "patch_size", "batch_size", "compiled", "error")
            row = {name: m.get(name) for name in names}
            for quantity in QUANTITIES:
                row |= _compared(quantity, m.get(quantity), stock.get(m["plan"], {}).get(quantity))
            rows.append(row)
        return pandas.DataFrame(rows)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns, by trainer and quantity, the geometric mean of the ratios over the plans, and the worst."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for trainer, rows in self.frame().groupby("trainer", sort=False):
            for quantity in QUANTITIES if trainer != BASELINE else ():
                if ratios := rows[f"{quantity}_ratio"].dropna().tolist():
                    values = {"mean": geometric_mean(ratios), "worst": max(ratios), "plans": len(ratios)}
                    found.setdefault(str(trainer), {})[quantity] = values
        return found

    def to_json(self) -> str:
        """Returns everything, for programs."""
        measurements = []
        for m, row in zip(self.measurements, plain(self.frame().to_dict("records")), strict=True):
            ends = {"value": "ratio", "low": "low", "high": "high"}
            ratios = {
                quantity: {name: row[f"{quantity}_{end}"] for name, end in ends.items()}
                for quantity in QUANTITIES
                if row[f"{quantity}_ratio"] is not None
            }
            measurements.append({**m, "ratio": ratios})
        values = {**asdict(self), "measurements": measurements, "summary": self.summary(), "baseline": BASELINE}
        return json.dumps({"format": FORMAT, **values}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Benchmark":
        """Returns the benchmark of `to_json`."""
        values: Mapping[str, Any] = json.loads(text)
        measurements = [{name: m[name] for name in m if name != "ratio"} for m in values["measurements"]]
        return cls(values["command"], values["repeats"], values["versions"], values["hardware"], measurements)


def _compared(quantity: str, ours: Any, theirs: Any) -> dict[str, float | None]:
    """Returns a quantity, its ratio to the stock network's, and the range of the rounds' ratios, if any."""
    rounds: list[float] = []
    if quantity in TIMED and ours and theirs:
        rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    value, stock = (median(found) if isinstance(found, list) else found for found in (ours, theirs))
    return {
        quantity: value,
        f"{quantity}_ratio": value / stock if value is not None and stock else None,
        f"{quantity}_low": min(rounds, default=None),
        f"{quantity}_high": max(rounds, default=None),
    }
