"""Whether methods are compared like for like: everything but the network should be equal."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnunetv2_salstm.evaluation.runs import Run

# What the trainings should share, by what it is called for readers, as nnU-Net's debug.json names it.
_TRAINING = {
    "epochs": "num_epochs",
    "iterations per epoch": "num_iterations_per_epoch",
    "batch size": "batch_size",
    "initial learning rate": "initial_lr",
    "torch version": "torch_version",
    "device": "device",
    "GPU": "gpu_name",
}
# What their plans should share, apart from the network, which is what is compared.
_CONFIGURATION = ("patch_size", "batch_size", "spacing", "normalization_schemes", "data_identifier", "batch_dice")


def confounders(methods: Mapping[str, Sequence[Run]], configuration: str | None) -> list[str]:
    """Returns a sentence for each thing but the network in which methods differ from the first."""
    found = []
    baseline, *others = methods
    expected = _facts(methods[baseline], configuration)
    for method in others:
        facts = _facts(methods[method], configuration)
        for name, theirs in expected.items():
            ours = facts.get(name, theirs)
            if ours != theirs:
                found.append(f"{method} and {baseline} differ in {name}: {_text(ours)} and {_text(theirs)}.")
        seeds, their_seeds = len(methods[method]), len(methods[baseline])
        if seeds != their_seeds:
            found.append(f"{method} was trained {_times(seeds)} with the same data, {baseline} {_times(their_seeds)}.")
    if any("all" in run.folds for runs in methods.values() for run in runs):
        found.append("The fold named all is validated on the cases that it was trained on.")
    return found


def runs_table(runs: Iterable[Run]) -> list[dict[str, str]]:
    """Returns what is known of every training: trainer, fold, epochs, torch, device and nnU-Net.

    Stock trainers do not write down nnU-Net's version; ours write it to the log, with "release" or "checkout".
    """
    rows = []
    for run in runs:
        for fold, training in run.folds.items():
            debug, log = training.debug, training.log
            gpu = str(debug.get("gpu_name", "None"))
            rows.append({
                "trainer": run.name,
                "fold": str(fold),
                "epochs": str(debug.get("num_epochs", "")) or str(len(log.train_loss) or ""),
                "torch": str(debug.get("torch_version", "")),
                "device": str(debug.get("device", "")) if gpu == "None" else gpu,
                "nnU-Net": " / ".join(sorted(log.nnunet)) or "not written",
            })  # fmt: skip
    return rows


def _facts(runs: Iterable[Run], configuration: str | None) -> dict[str, set[str]]:
    facts: defaultdict[str, set[str]] = defaultdict(set)
    for run in runs:
        for training in run.folds.values():
            for name, key in _TRAINING.items():
                if key in training.debug:
                    facts[name].add(str(training.debug[key]))
            if training.log.train_loss:
                facts["epochs in the log"].add(str(max(training.log.train_loss) + 1))
            if training.log.split:
                facts["training cases"].add(str(training.log.split[-1][0]))
            if training.log.nnunet:
                facts["nnU-Net"] |= training.log.nnunet
        for name, value in _plan(run, configuration).items():
            facts[name].add(str(value))
    return facts


def _plan(run: Run, configuration: str | None) -> dict[str, Any]:
    plan = dict(run.plans.get("configurations", {}).get(configuration, {}))
    stem = {key: value for key, value in plan.get("architecture", {}).get("arch_kwargs", {}).items() if key != "salstm"}
    shared = {f"plans' {key}": plan[key] for key in _CONFIGURATION if key in plan}
    return {**shared, "plans' network apart from SA-LSTM": sorted(stem.items())} if stem else shared


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _text(values: set[str]) -> str:
    joined = " / ".join(sorted(values))
    return joined if len(joined) <= 60 else f"{joined[:57]}..."
