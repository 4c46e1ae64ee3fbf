"""What was found, in numbers for programs, in tables and in words."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnunetv2_salstm.evaluation.probe import DIRECTIONS, GATES, AttentionFindings, Features, StageFindings

FORMAT = 1
# An attention matrix at most so far from another, in total variation, is called equal to it.
COLLAPSED = 0.05

Quantity = Callable[[StageFindings], float | None]


@dataclass(frozen=True)
class Series:
    """A quantity against the stage: mean, smallest and largest value over cases; stages without it are left out."""

    stages: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass
class ModelFindings:
    """What was found in one model.

    Attributes:
        label: its short name.
        about: folder, trainer, configuration, fold and checkpoint.
        salstm: the configuration of its modules, None for a stock network.
        cases: what is said about each stage, by case.
    """

    label: str
    about: dict[str, Any]
    salstm: dict[str, Any] | None
    cases: dict[str, list[StageFindings]] = field(default_factory=dict)

    @property
    def n_stages(self) -> int:
        """Stages of the encoder."""
        return len(next(iter(self.cases.values())))

    def stages(self, kind: str = "module") -> list[int]:
        """Returns the stages with a module, with gates or with attention."""
        first = next(iter(self.cases.values()))
        return [
            stage
            for stage, found in enumerate(first)
            if found.module and (kind == "module" or getattr(found.module, kind))
        ]

    def series(self, quantity: Quantity) -> Series:
        """Returns a quantity against the stage, over the cases that have it."""
        series = Series([], [], [], [])
        for stage in range(self.n_stages):
            found = [value for case in self.cases.values() if (value := quantity(case[stage])) is not None]
            if found:
                series.stages.append(stage)
                series.mean.append(sum(found) / len(found))
                series.low.append(min(found))
                series.high.append(max(found))
        return series

    def mean(self, stage: int, quantity: Quantity) -> float | None:
        """Returns a quantity's mean over the cases, None where the stage does not have it."""
        series = self.series(quantity)
        return dict(zip(series.stages, series.mean, strict=True)).get(stage)

    def matrix(self, stage: int, direction: str) -> Tensor:
        """Returns the attention matrix of a stage, (C, C), its mean over the cases."""
        found = [attention_of(case[stage], direction) for case in self.cases.values()]
        return torch.stack([attention.matrix for attention in found if attention is not None]).mean(0)

    def words(self) -> list[str]:
        """Returns in sentences what this model is and what its modules have become."""
        if self.salstm is None:
            return [
                f"{self.label} is a stock network without SA-LSTM modules: only the sparsity of its encoder's outputs "
                "can be shown."
            ]
        sentences = []
        if not self.stages("gates"):
            sentences.append(
                f"{self.label} has plain convolutions as its modules: there are no gates and no attention."
            )
        elif not self.stages("attention"):
            sentences.append(
                f"{self.label} has its attention switched off: there are gates, but no attention matrices."
            )
        else:
            sentences += self._collapses()
        added = self.series(contribution)
        silent = [stage for stage, mean in zip(added.stages, added.mean, strict=True) if mean == 0]
        if silent:
            sentences.append(f"{self.label}: the modules of {_stages(silent)} add nothing; they are as at the start.")
        heard = [(mean, stage) for stage, mean in zip(added.stages, added.mean, strict=True) if mean]
        if heard:
            (most, loud), (least, quiet) = max(heard), min(heard)
            sentences.append(
                f"{self.label}: the modules add {percent(least)} (stage {quiet}) to {percent(most)} (stage {loud}) of "
                "their skip's norm."
                if len(heard) > 1
                else f"{self.label}: the module adds {percent(most)} (stage {loud}) of its skip's norm."
            )
        return sentences

    def _collapses(self) -> list[str]:
        sentences, collapsed = [], []
        for name, distance in (("identity", "from_identity"), ("uniform matrix", "from_uniform")):
            for direction in DIRECTIONS:
                series = self.series(of_attention(direction, distance))
                stages = [s for s, mean in zip(series.stages, series.mean, strict=True) if mean < COLLAPSED]
                # With a single channel all matrices are the same: [[1]].
                stages = [stage for stage in stages if len(self.matrix(stage, direction)) > 1]
                collapsed += stages
                if stages:
                    sentences.append(
                        f"{self.label}: the {direction} attention of {_stages(stages)} has collapsed to the {name} "
                        f"(distance below {COLLAPSED})."
                    )
        single = [stage for stage in self.stages("attention") if len(self.matrix(stage, "forward")) == 1]
        if single:
            sentences.append(f"{self.label}: the modules of {_stages(single)} have one channel, whose attention is 1.")
        if not collapsed and len(single) < len(self.stages("attention")):
            sentences.append(f"{self.label}: no attention has collapsed to the identity or to the uniform matrix.")
        return sentences

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        matrices = {
            str(stage): {direction: self.matrix(stage, direction).tolist() for direction in DIRECTIONS}
            for stage in self.stages("attention")
        }
        return {
            "label": self.label,
            **self.about,
            "salstm": self.salstm,
            "words": self.words(),
            "attention_matrices": matrices,
            "cases": {name: [_stage_json(stage) for stage in stages] for name, stages in self.cases.items()},
        }


@dataclass(frozen=True)
class Report:
    """What was found in one model or two on the same cases.

    Attributes:
        command: that made it.
        images: what was read.
        models: in the order of the command.
        made_with: versions and hardware.
    """

    command: str
    images: str
    models: Sequence[ModelFindings]
    made_with: dict[str, Any]

    def words(self) -> list[str]:
        """Returns the sentences about all models."""
        return [sentence for model in self.models for sentence in model.words()]

    def to_json(self) -> str:
        """Returns everything for programs."""
        values = {
            "format": FORMAT,
            "command": self.command,
            "images": self.images,
            "collapsed_below": COLLAPSED,
            "models": [model.to_json() for model in self.models],
            "made_with": self.made_with,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def rows(self) -> list[list[str]]:
        """Returns a table with a row for each model and stage: means over the cases, without columns of nothing."""
        quantities: dict[str, tuple[list[Quantity], Callable[[float], str]]] = {
            "sparsity before": ([lambda stage: stage.before.sparsity], _number),
            "after": ([lambda stage: stage.after.sparsity], _number),
            "of the module": ([lambda stage: stage.module.output.sparsity if stage.module else None], _number),
            "contribution": ([contribution], percent),
            "entropy": ([of_attention(direction, "entropy") for direction in DIRECTIONS], _number),
            "from identity": ([of_attention(direction, "from_identity") for direction in DIRECTIONS], _number),
            "from uniform": ([of_attention(direction, "from_uniform") for direction in DIRECTIONS], _number),
        }
        lines = [(model, stage) for model in self.models for stage in range(model.n_stages)]
        columns = [["model", *(model.label for model, _ in lines)], ["stage", *(str(stage) for _, stage in lines)]]
        for name, (parts, text) in quantities.items():
            cells = [
                " / ".join("-" if (mean := model.mean(stage, part)) is None else text(mean) for part in parts)
                if model.mean(stage, parts[0]) is not None
                else "-"
                for model, stage in lines
            ]
            if any(cell != "-" for cell in cells):
                columns.append([name, *cells])
        return [list(row) for row in zip(*columns, strict=True)]

    def gate_rows(self) -> list[list[str]]:
        """Returns a table of the gates: mean, standard deviation and saturated shares, means over the cases."""
        rows = [["model", "stage", *(f"{gate}: mean ± SD, low, high" for gate in GATES)]]
        for model in self.models:
            for stage in model.stages("gates"):
                row = [model.label, str(stage)]
                for gate in GATES:
                    mean, deviation, low, high = (
                        model.mean(stage, of_gate(gate, name)) for name in ("mean", "deviation", "low", "high")
                    )
                    row.append(f"{mean:.2f} ± {deviation:.2f}, {low:.0%}, {high:.0%}")
                rows.append(row)
        return rows


def contribution(stage: StageFindings) -> float | None:
    """Returns the norm of what a module adds relative to its skip's."""
    return stage.module.contribution if stage.module else None


def of_attention(direction: str, name: str) -> Quantity:
    """Returns a quantity of one direction's attention: entropy, from_identity or from_uniform."""

    def quantity(stage: StageFindings) -> float | None:
        attention = attention_of(stage, direction)
        return None if attention is None else getattr(attention, name)

    return quantity


def of_gate(gate: str, name: str) -> Quantity:
    """Returns a quantity of a gate: mean, deviation, low or high."""

    def quantity(stage: StageFindings) -> float | None:
        return getattr(stage.module.gates[gate], name) if stage.module and stage.module.gates else None

    return quantity


def attention_of(stage: StageFindings, direction: str) -> AttentionFindings | None:
    """Returns what is said about one direction's attention, None where there is none."""
    return stage.module.attention.get(direction) if stage.module else None


def percent(share: float) -> str:
    """Returns a share in per cent."""
    return f"{100 * share:.3g} %"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _stages(stages: Sequence[int]) -> str:
    *others, last = map(str, stages)
    return f"stages {', '.join(others)} and {last}" if others else f"stage {last}"


def _features_json(features: Features) -> dict[str, float | None]:
    return {"sparsity": features.sparsity, "magnitude": features.magnitude}


def _stage_json(stage: StageFindings) -> dict[str, Any]:
    module = stage.module
    return {
        "before": _features_json(stage.before),
        "after": _features_json(stage.after),
        "module": module
        and {
            "output": _features_json(module.output),
            "contribution": module.contribution,
            "gates": {name: vars(gate) for name, gate in module.gates.items()},
            "attention": {
                direction: {name: getattr(found, name) for name in ("entropy", "from_identity", "from_uniform")}
                for direction, found in module.attention.items()
            },
        },
    }
