"""What was found in models on the same cases: a table, the attention matrices, and what they say in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
import torch
from torch import Tensor

from nnunetv2_salstm.evaluation.identity_test import losses, sentence
from nnunetv2_salstm.evaluation.probe import DIRECTIONS, GATES, NUMBERS
from nnunetv2_salstm.host.files import plain

FORMAT = 2
# An attention matrix at most so far from another, in total variation, is called equal to it.
COLLAPSED = 0.05
# All rows attend to the same few channels where Y = A V keeps less than this share of V's effective rank.
FEW = 0.5


class ModelFindings:
    """What was found in one model.

    Args:
        label: its short name.
        about: folder, trainer, configuration, fold and checkpoint.
        salstm: the configuration of its modules, None for a stock network.

    Attributes:
        identity_test: Dice with and without its blocks, see `identity_test`; None where it was not asked for.
    """

    def __init__(self, label: str, about: dict[str, Any], salstm: dict[str, Any] | None):
        self.label, self.about, self.salstm = label, about, salstm
        self._rows: list[dict[str, Any]] = []
        self._matrices: list[Mapping[tuple[int, str], Tensor]] = []
        self.identity_test: pandas.DataFrame | None = None

    def add(
        self, case: str, stages: Sequence[Mapping[str, float | None]], matrices: Mapping[tuple[int, str], Tensor]
    ) -> None:
        """Adds a case: of each stage those of `probe.NUMBERS` that it has, and mean matrices by stage and direction."""
        self._rows += [{"model": self.label, "case": case, "stage": stage, **row} for stage, row in enumerate(stages)]
        self._matrices.append(matrices)

    def frame(self) -> pandas.DataFrame:
        """Returns a row for each case and stage: model, case, stage and `probe.NUMBERS`; what it lacks is missing."""
        frame = pandas.DataFrame(self._rows, columns=["model", "case", "stage", *NUMBERS])
        return frame.astype(dict.fromkeys(NUMBERS, float))

    def matrices(self) -> dict[tuple[int, str], Tensor]:
        """Returns the attention matrices by stage and direction, (C, C), means over the cases."""
        return {which: torch.stack([case[which] for case in self._matrices]).mean(0) for which in self._matrices[0]}

    def words(self) -> list[str]:
        """Returns in sentences what this model is and what its modules have become."""
        if self.salstm is None:
            return [
                f"{self.label} is a stock network without SA-LSTM modules: only the sparsity of its encoder's outputs "
                "can be shown."
            ]
        means = self.frame().groupby("stage").mean(numeric_only=True)
        if matrices := self.matrices():
            sentences = self._collapses(means, matrices)
        elif means[f"{GATES[0]}_mean"].notna().any():
            sentences = [f"{self.label} has its attention switched off: there are gates, but no attention matrices."]
        else:
            sentences = [f"{self.label} has plain convolutions as its modules: there are no gates and no attention."]
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
        if self.identity_test is not None:
            sentences.append(f"{self.label}: {sentence(losses(self.identity_test))}")
        return sentences

    def _collapses(self, means: pandas.DataFrame, matrices: Mapping[tuple[int, str], Tensor]) -> list[str]:
        # With a single channel all matrices are the same: [[1]].
        single = sorted({stage for (stage, _), matrix in matrices.items() if len(matrix) == 1})
        several = means.loc[sorted({stage for stage, _ in matrices} - set(single))]
        sentences = []
        for name, distance in (("identity", "from_identity"), ("uniform matrix", "from_uniform")):
            for direction in DIRECTIONS:
                if stages := list(several.index[several[f"{direction}_{distance}"] < COLLAPSED]):
                    sentences.append(
                        f"{self.label}: the {direction} attention of {_stages(stages)} has collapsed to the {name} "
                        f"(distance below {COLLAPSED})."
                    )
        for direction in DIRECTIONS:
            rank, kept = several[f"{direction}_rank"], several[f"{direction}_rank_kept"]
            if stages := list(several.index[(kept < FEW) & (several[f"{direction}_from_uniform"] >= COLLAPSED)]):
                sentences.append(
                    f"{self.label}: all rows of the {direction} attention of {_stages(stages)} attend to the same few "
                    f"channels: A has an effective rank of {_range(rank[stages], '{:.1f}'.format)}, and Y = A V keeps "
                    f"{_range(kept[stages], percent)} of V's."
                )
        if len(several) and not sentences:
            sentences = [
                f"{self.label}: no attention has collapsed to the identity, to the uniform matrix or to few channels."
            ]
        if single:
            sentences.append(f"{self.label}: the modules of {_stages(single)} have one channel, whose attention is 1.")
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
            "identity_test": None if self.identity_test is None else plain(self.identity_test.to_dict("records")),
            "attention_matrices": matrices,
            "stages": [{name: row.get(name) for name in ("case", "stage", *NUMBERS)} for row in self._rows],
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
        "few_below": FEW,
        "models": [model.to_json() for model in models],
        "made_with": dict(made_with),
    }


def percent(share: float) -> str:
    """Returns a share in per cent."""
    return f"{100 * share:.3g} %"


def _range(values: "pandas.Series[float]", show: Any) -> str:
    low, high = show(values.min()), show(values.max())
    return low if low == high else f"{low} to {high}"


def _stages(stages: Sequence[int]) -> str:
    *others, last = map(str, stages)
    return f"stages {', '.join(others)} and {last}" if others else f"stage {last}"
