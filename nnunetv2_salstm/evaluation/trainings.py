"""The values of trainings as arrays, and how they are paired: over cases, over groups of them, over trainings."""

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

# The values of a method's trainings, (cases,) each, by seed and fold; nan where there is none.
Trainings: TypeAlias = dict[tuple[Hashable, Hashable], np.ndarray]


def read_arrays(scores: Mapping[str, Any]) -> tuple[dict[str, Trainings], Sequence[Hashable]]:
    """Returns the trainings of each method from an array (trainings, cases) each, and the cases' numbers.

    Raises:
        ValueError: if an array has another shape, or the methods differ in their cases.
    """
    found: dict[str, Trainings] = {}
    lengths = {}
    for method, values in scores.items():
        array = np.asarray(values, float)
        if array.ndim != 2 or not array.size:
            raise ValueError(f"scores of {method} must have the shape (trainings, cases), got {array.shape}")
        found[method] = {(row, 0): values for row, values in enumerate(array)}
        lengths[method] = array.shape[1]
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"all methods must have the same cases, got {', '.join(f'{m} {n}' for m, n in lengths.items())}"
        )
    return found, range(next(iter(lengths.values()), 0))


def read_table(table: pd.DataFrame) -> tuple[dict[str, Trainings], Sequence[Hashable]]:
    """Returns the trainings of each method from a table (see `compare_methods`), and the cases' names.

    Raises:
        ValueError: if it lacks a column, or methods or seeds do not have the same cases, each once.
    """
    missing = [name for name in ("method", "case", "value") if name not in table.columns]
    if missing:
        raise ValueError(f"the table must have the columns method, case and value; it lacks {', '.join(missing)}")
    rows = table.assign(**{name: 0 for name in ("seed", "fold") if name not in table.columns})
    twice = rows[rows.duplicated(["method", "seed", "fold", "case"])]
    if len(twice):
        where = ", ".join(f"{name} {twice.iloc[0][name]}" for name in ("method", "seed", "fold", "case"))
        raise ValueError(f"each training must have a case once, got twice: {where}")
    cases = list(rows["case"].unique())
    found = {}
    for method, own in rows.groupby("method", sort=False):
        trainings: Trainings = {}
        cases_of: dict[Hashable, set[Hashable]] = {}
        for (fold, seed), training in own.groupby(["fold", "seed"], sort=False, dropna=False):
            trainings[seed, fold] = training.set_index("case")["value"].reindex(cases).to_numpy(float)
            unlike = cases_of.setdefault(fold, set(training["case"])) ^ set(training["case"])
            if unlike:
                raise ValueError(
                    f"all seeds of a fold must have the same cases; those of {method}, fold {fold!s} differ in "
                    f"{', '.join(sorted(map(str, unlike))[:5])}"
                )
        found[str(method)] = trainings
        lacking = [str(case) for case in cases if case not in set(own["case"])]
        if lacking:
            raise ValueError(f"all methods must have the same cases; {method} lacks {', '.join(lacking[:5])}")
    return found, cases


def units_of(groups: Sequence[Hashable] | Mapping[Any, Hashable] | None, cases: Sequence[Hashable]) -> np.ndarray:
    """Returns the number of the unit of each case, (cases,)."""
    if groups is None:
        return np.arange(len(cases))
    if isinstance(groups, Mapping):
        lacking = [str(case) for case in cases if case not in groups]
        if lacking:
            raise ValueError(f"groups must name the group of every case; it lacks {', '.join(lacking[:5])}")
        groups = [groups[case] for case in cases]
    if len(groups) != len(cases):
        raise ValueError(f"groups must be as many as cases, got {len(groups)} and {len(cases)}")
    return np.asarray(pd.factorize(np.array(groups, object))[0])


def paired_means(
    ours: Trainings, theirs: Trainings, units: np.ndarray
) -> tuple[tuple[list[float], list[float]], list[str]]:
    """Returns the means of paired trainings, ours and theirs, over the units that both have; and what was left out.

    Paired are trainings of equal fold: by seed first, those left in their order.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for fold in dict.fromkeys(fold for _, fold in ours):
        a, b = ({seed: values for (seed, f), values in side.items() if f == fold} for side in (ours, theirs))
        pairs += [(a.pop(seed), b.pop(seed)) for seed in list(a) if seed in b]
        pairs += zip(a.values(), b.values(), strict=False)
    notes = []
    if max(len(ours), len(theirs)) > len(pairs):
        notes.append(
            f"{len(ours)} trainings against {len(theirs)}: {len(pairs)} can be paired within their fold, and the "
            "answer about the methods is from these."
        )
    shared = [both for pair in pairs if len((both := paired(*pair, units))[0])]
    if len(shared) < len(pairs):
        notes.append(f"{len(pairs) - len(shared)} pairs of trainings have no case in common and are left out.")
    our_means, their_means = ([float(pair[side].mean()) for pair in shared] for side in (0, 1))
    if not np.isfinite([our_means, their_means]).all():
        return ([], []), notes
    return (our_means, their_means), notes


def by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Returns the means over the cases of each unit that are not nan, (units,); nan where all are."""
    there = ~np.isnan(values)
    counts = np.bincount(units[there], minlength=units.max() + 1)
    total = np.bincount(units[there], values[there], len(counts))
    means: np.ndarray = np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means


def paired(ours: np.ndarray, theirs: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of both over the cases of each unit that both have, (units,)."""
    neither = np.isnan(ours) | np.isnan(theirs)
    a, b = (by_unit(np.where(neither, np.nan, values), units) for values in (ours, theirs))
    return a[~np.isnan(a)], b[~np.isnan(b)]


def by_seed(trainings: Trainings) -> dict[Hashable, np.ndarray]:
    """Returns the values of each seed, its folds put together, (cases,)."""
    seeds = dict.fromkeys(seed for seed, _ in trainings)
    return {seed: mean(values for (other, _), values in trainings.items() if other == seed) for seed in seeds}


def mean(trainings: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the means over trainings of what is not nan; nan where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice"
        means: np.ndarray = np.nanmean(list(trainings), axis=0)
    return means
