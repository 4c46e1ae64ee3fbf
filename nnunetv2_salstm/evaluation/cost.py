"""What methods cost: time and parameters of their trainings, and times and memory of a benchmark."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from nnunetv2_salstm.evaluation.runs import Method
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.host.trainer_names import are_one_method, without_length

# What of a benchmark is shown, by its keys there.
MEASURED = ("training_step", "inference_tile", "peak_memory")


def cost_of(methods: Sequence[Method], bench: Path | None) -> dict[str, dict[str, float]]:
    """Returns what each method costs: from its trainings, and from a file of `nnUNetv2_salstm bench` if there is one.

    Raises:
        SalstmError: if a checkpoint or the file cannot be read.
    """
    measured = {} if bench is None else _bench(bench)
    found: dict[str, dict[str, float]] = {}
    for method in methods:
        values = found.setdefault(method.name, {})
        trainings = [training for run in method.runs for training in run.folds.values()]
        times = [median(training.log.epoch_seconds.values()) for training in trainings if training.log.epoch_seconds]
        if times:
            values["epoch_seconds"] = mean(times)
        if trainings:
            values["parameters"] = _parameters(trainings[0].folder / "checkpoint_final.pth")
        trainer = without_length(method.name)
        for name, quantities in measured.items():
            if are_one_method(name, trainer):
                values.update(quantities)
    return found


def _bench(file: Path) -> dict[str, dict[str, float]]:
    """Returns times (medians over the rounds) and memory by trainer."""
    report = read_json(file, "a benchmark")
    try:
        plans = {row["plan"]: None for row in report["measurements"]}
        found = {
            row["trainer"]: {name: _median(row[name]) for name in MEASURED if row.get(name) is not None}
            for row in report["measurements"]
        }
    except (KeyError, TypeError) as error:
        raise SalstmError(f"--bench {file} is no JSON file of nnUNetv2_salstm bench: it lacks {error}") from None
    if len(plans) != 1:
        raise SalstmError(
            f"--bench {file} must be about one plan, it is about {', '.join(plans)}; make it for this data set "
            "with: nnUNetv2_salstm bench -d DATASET -c CONFIGURATION --json FILE"
        )
    return found


def _median(value: Any) -> float:
    return float(median(value)) if isinstance(value, list) else float(value)


def _parameters(checkpoint: Path) -> int:
    from nnunetv2_salstm.host.checkpoints import count_parameters, read_checkpoint

    return count_parameters(read_checkpoint(checkpoint)["network_weights"])
