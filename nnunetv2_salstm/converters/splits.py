"""Folds in which no patient or sequence is both trained on and validated with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_salstm.converters.case import Case

FOLDS = 5
# nnU-Net's own, for its random folds.
SEED = 12345


@dataclass(frozen=True)
class Splits:
    """The folds as nnU-Net's splits_final.json has them, none if there is one group only."""

    folds: list[dict[str, list[str]]]
    balanced: bool


def split(cases: Sequence[Case]) -> Splits:
    """Divides the groups of the cases into at most `FOLDS` folds of about equal size, equal for equal cases.

    The folds are balanced over the strata, unless there are fewer groups of a stratum than folds.
    """
    cases = sorted(cases, key=lambda case: case.name)
    strata: dict[str, set[str]] = {}
    for case in cases:
        strata.setdefault(case.stratum, set()).add(case.group)
    count = min(FOLDS, len({case.group for case in cases}))
    if count < 2:
        return Splits([], False)
    fits = min(map(len, strata.values())) >= count

    from sklearn.model_selection import StratifiedGroupKFold

    names = np.array([case.name for case in cases])
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=SEED).split(
        names, [case.stratum if fits else "" for case in cases], [case.group for case in cases]
    )
    return Splits(
        [{"train": names[train].tolist(), "val": names[validation].tolist()} for train, validation in folds],
        fits and len(strata) > 1,
    )
