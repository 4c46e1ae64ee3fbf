"""Whether arms are like for like: everything but the network should be equal."""

from collections.abc import Sequence
from typing import Any

from nnunetv2_salstm.evaluation.runs import Arm, Run

# What the trainings should share, by what it is called for readers, as nnU-Net's debug.json names it.
_TRAINING = {
    "epochs": "num_epochs",
    "iterations per epoch": "num_iterations_per_epoch",
    "batch size": "batch_size",
    "initial learning rate": "initial_lr",
    "torch version": "torch_version",
    "device": "device",
}
# What their plans should share, apart from the network, which is what is compared.
_CONFIGURATION = ("patch_size", "batch_size", "spacing", "normalization_schemes", "data_identifier", "batch_dice")


def differences(arms: Sequence[Arm], configuration: str | None) -> list[str]:
    """Returns a sentence for each thing but the network in which arms differ from the first."""
    found = []
    baseline, *others = arms
    expected = _facts(baseline, configuration)
    for arm in others:
        facts = _facts(arm, configuration)
        for name, theirs in expected.items():
            ours = facts.get(name, set())
            if theirs and ours and ours != theirs:
                found.append(f"{arm.name} and {baseline.name} differ in {name}: {_text(ours)} and {_text(theirs)}.")
        seeds, their_seeds = (len(a.runs) for a in (arm, baseline))
        if seeds != their_seeds:
            found.append(
                f"{arm.name} was trained {seeds} times with the same data, {baseline.name} {their_seeds} times."
            )
    return found


def _facts(arm: Arm, configuration: str | None) -> dict[str, set[str]]:
    facts: dict[str, set[str]] = {}
    for run in arm.runs:
        for name, key in _TRAINING.items():
            for training in run.folds.values():
                if key in training.debug:
                    facts.setdefault(name, set()).add(str(training.debug[key]))
        for training in run.folds.values():
            epochs = training.log.train_loss
            if epochs:
                facts.setdefault("epochs in the log", set()).add(str(max(epochs) + 1))
        for key, value in _plan(run, configuration).items():
            facts.setdefault(key, set()).add(str(value))
    return facts


def _plan(run: Run, configuration: str | None) -> dict[str, Any]:
    plan = dict(run.plans.get("configurations", {}).get(configuration, {}))
    stem = {key: value for key, value in plan.get("architecture", {}).get("arch_kwargs", {}).items() if key != "salstm"}
    shared = {f"plans' {key}": plan[key] for key in _CONFIGURATION if key in plan}
    return {**shared, "plans' network apart from SA-LSTM": sorted(stem.items())} if stem else shared


def _text(values: set[str]) -> str:
    joined = " / ".join(sorted(values))
    return joined if len(joined) <= 60 else f"{joined[:57]}..."
