"""What methods cost: time and parameters of their trainings, and times and memory of a benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np

from nnunetv2_salstm.evaluation.runs import Run
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.host.trainer_names import are_one_method, without_length

# What of a benchmark is shown, by its keys there.
MEASURED = ("training_step", "inference_tile", "peak_memory")


def cost_of(methods: Mapping[str, Sequence[Run]], bench: Path | None) -> dict[str, dict[str, float]]:
    """Returns what each method costs: from its trainings, and from a file of `nnUNetv2_salstm bench` if there is one.

    Raises:
        SalstmError: if a checkpoint or the file cannot be read.
    """
    from nnunetv2_salstm.host.checkpoints import count_parameters, read_checkpoint

    measured = {} if bench is None else _bench(bench)
    found: dict[str, dict[str, float]] = {}
    for method, runs in methods.items():
        values = found.setdefault(method, {})
        trainings = [training for run in runs for training in run.folds.values()]
        times = [median(training.log.epoch_seconds.values()) for training in trainings if training.log.epoch_seconds]
        if times:
            values["epoch_seconds"] = mean(times)
        for training in trainings:
            # Removed by those who keep predictions only; all of a method have the same parameters.
            if (file := training.folder / "checkpoint_final.pth").is_file():
                values["parameters"] = count_parameters(read_checkpoint(file)["network_weights"])
                break
        trainer = without_length(method)
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
            row["trainer"]: {name: float(np.median(row[name])) for name in MEASURED if row.get(name) is not None}
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
