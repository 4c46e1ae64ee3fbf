"""What arms cost: time and parameters of their trainings, and times and memory of a benchmark."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from nnunetv2_salstm.evaluation.benchmark import BASELINE, Benchmark
from nnunetv2_salstm.evaluation.runs import Arm, without_length
from nnunetv2_salstm.host.errors import SalstmError

# What of a benchmark is shown.
MEASURED = ("training_step", "inference_tile", "peak_memory")


def cost_of(arms: Sequence[Arm], bench: Path | None) -> dict[str, dict[str, float]]:
    """Returns what each arm costs: from its trainings, and from a file of `nnUNetv2_salstm bench` if there is one."""
    measured = {} if bench is None else _bench(bench)
    found: dict[str, dict[str, float]] = {}
    for arm in arms:
        values = found.setdefault(arm.name, {})
        trainings = [training for run in arm.runs for training in run.folds.values()]
        times = [median(training.log.epoch_seconds.values()) for training in trainings if training.log.epoch_seconds]
        if times:
            values["epoch_seconds"] = mean(times)
        if trainings:
            values["parameters"] = _parameters(trainings[0].folder / "checkpoint_final.pth")
        values.update(measured.get(without_length(arm.name), {}))
    return found


def _bench(file: Path) -> dict[str, dict[str, float]]:
    """Returns times and memory by trainer; the stock trainer's also by nnU-Net's name for it."""
    try:
        report = Benchmark.from_json(file.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SalstmError(f"--bench {file} is no JSON file of nnUNetv2_salstm bench: {error}") from None
    if len(report.plans) != 1:
        raise SalstmError(
            f"--bench {file} must be about one plan, it is about {', '.join(report.plans)}; make it for this data set "
            "with: nnUNetv2_salstm bench -d DATASET -c CONFIGURATION --json FILE"
        )
    found = {}
    for measurement in report.measurements:
        values = {name: measurement.value(name) for name in MEASURED}
        found[measurement.trainer] = {name: value for name, value in values.items() if value is not None}
    if BASELINE in found:
        found.setdefault("nnUNetTrainer", found[BASELINE])
    return found


def _parameters(checkpoint: Path) -> int:
    """Returns the number of the network's parameters in a checkpoint, each once however many names it has."""
    from nnunetv2_salstm.host.checkpoints import read_checkpoint

    weights = read_checkpoint(checkpoint)["network_weights"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    unique = {
        tensor.data_ptr(): tensor.numel()
        for name, tensor in weights.items()
        if name.rpartition(".")[2] not in statistics
    }
    return sum(unique.values())
