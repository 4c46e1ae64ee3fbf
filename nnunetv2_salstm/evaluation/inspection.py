"""What was found in models on the same cases: a table, the attention matrices, and what they say in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas
import torch
from torch import Tensor

from nnunetv2_salstm.evaluation.probe import DIRECTIONS, GATES, AttentionFindings, Features, StageFindings

FORMAT = 1
# An attention matrix at most so far from another, in total variation, is called equal to it.
COLLAPSED = 0.05
_OF_FEATURES = ("sparsity", "magnitude")
_OF_GATE = ("mean", "deviation", "low", "high")
_OF_ATTENTION = ("entropy", "from_identity", "from_uniform")


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

    def frame(self) -> pandas.DataFrame:
        """Returns a row for each case and stage; what a stage does not have is missing.

        Columns: model, case, stage; before_, after_ and module_ with sparsity and magnitude; contribution; GATE_ with
        mean, deviation, low and high; DIRECTION_ with entropy, from_identity and from_uniform.
        """
        rows = [
            {"model": self.label, "case": name, "stage": stage, **_numbers(found)}
            for name, stages in self.cases.items()
            for stage, found in enumerate(stages)
        ]
        names = [name for name in rows[0] if name not in ("model", "case", "stage")]
        return pandas.DataFrame(rows).astype(dict.fromkeys(names, float))

    def matrices(self) -> dict[tuple[int, str], Tensor]:
        """Returns the attention matrices by stage and direction, (C, C), means over the cases."""
        found: dict[tuple[int, str], list[Tensor]] = {}
        for stages in self.cases.values():
            for stage, findings in enumerate(stages):
                for direction, attention in (findings.module.attention if findings.module else {}).items():
                    found.setdefault((stage, direction), []).append(attention.matrix)
        return {which: torch.stack(matrices).mean(0) for which, matrices in found.items()}

    def words(self) -> list[str]:
        """Returns in sentences what this model is and what its modules have become."""
        if self.salstm is None:
            return [
                f"{self.label} is a stock network without SA-LSTM modules: only the sparsity of its encoder's outputs "
                "can be shown."
            ]
        means = self.frame().groupby("stage").mean(numeric_only=True)
        matrices = self.matrices()
        sentences = []
        if matrices:
            sentences += self._collapses(means, matrices)
        elif means[f"{GATES[0]}_mean"].notna().any():
            sentences.append(
                f"{self.label} has its attention switched off: there are gates, but no attention matrices."
            )
        else:
            sentences.append(
                f"{self.label} has plain convolutions as its modules: there are no gates and no attention."
            )
        added = means["contribution"].dropna()
        if silent := list(added[added == 0].index):
            sentences.append(f"{self.label}: the modules of {_stages(silent)} add nothing; they are as at the start.")
        heard = added[added != 0]
        if len(heard) == 1:
            sentences.append(
                f"{self.label}: the module adds {percent(heard.iloc[0])} (stage {heard.index[0]}) of its skip's norm."
            )
        elif len(heard):
            sentences.append(
                f"{self.label}: the modules add {percent(heard.min())} (stage {heard.idxmin()}) to "
                f"{percent(heard.max())} (stage {heard.idxmax()}) of their skip's norm."
            )
        return sentences

    def _collapses(self, means: pandas.DataFrame, matrices: Mapping[tuple[int, str], Tensor]) -> list[str]:
        # With a single channel all matrices are the same: [[1]].
        several = sorted({stage for (stage, _), matrix in matrices.items() if len(matrix) > 1})
        single = sorted({stage for stage, _ in matrices} - set(several))
        sentences = []
        for name, distance in (("identity", "from_identity"), ("uniform matrix", "from_uniform")):
            for direction in DIRECTIONS:
                found = means.loc[several, f"{direction}_{distance}"]
                if stages := list(found[found < COLLAPSED].index):
                    sentences.append(
                        f"{self.label}: the {direction} attention of {_stages(stages)} has collapsed to the {name} "
                        f"(distance below {COLLAPSED})."
                    )
        collapsed = bool(sentences)
        if single:
            sentences.append(f"{self.label}: the modules of {_stages(single)} have one channel, whose attention is 1.")
        if several and not collapsed:
            sentences.append(f"{self.label}: no attention has collapsed to the identity or to the uniform matrix.")
        return sentences

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        matrices: dict[str, dict[str, Any]] = {}
        for (stage, direction), matrix in self.matrices().items():
            matrices.setdefault(str(stage), {})[direction] = matrix.tolist()
        return {
            "label": self.label,
            **self.about,
            "salstm": self.salstm,
            "words": self.words(),
            "attention_matrices": matrices,
            "cases": {name: [_stage_json(stage) for stage in stages] for name, stages in self.cases.items()},
        }


def inspection_json(
    models: Sequence[ModelFindings], *, command: str, images: str, made_with: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what was found in one model or two, for programs.

    Args:
        models: in the order of the command.
        command: that made it.
        images: what was read.
        made_with: versions and hardware.
    """
    return {
        "format": FORMAT,
        "command": command,
        "images": images,
        "collapsed_below": COLLAPSED,
        "models": [model.to_json() for model in models],
        "made_with": dict(made_with),
    }


def percent(share: float) -> str:
    """Returns a share in per cent."""
    return f"{100 * share:.3g} %"


def _numbers(stage: StageFindings) -> dict[str, float | None]:
    module = stage.module
    kinds = {"before": stage.before, "after": stage.after, "module": module and module.output}
    numbers: dict[str, Any] = {
        f"{kind}_{name}": found and getattr(found, name) for kind, found in kinds.items() for name in _OF_FEATURES
    }
    numbers["contribution"] = module and module.contribution
    gates: Mapping[str, Any] = module.gates if module else {}
    attention: Mapping[str, AttentionFindings] = module.attention if module else {}
    numbers |= {f"{gate}_{name}": getattr(gates.get(gate), name, None) for gate in GATES for name in _OF_GATE}
    numbers |= {
        f"{direction}_{name}": getattr(attention.get(direction), name, None)
        for direction in DIRECTIONS
        for name in _OF_ATTENTION
    }
    return numbers


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
                direction: {name: getattr(found, name) for name in _OF_ATTENTION}
                for direction, found in module.attention.items()
            },
        },
    }
