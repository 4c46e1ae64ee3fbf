"""The verdicts about methods against a baseline: over cases about these networks, over trainings about the methods."""

import itertools
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_salstm.evaluation.answers import (
    BETTER,
    EQUIVALENT,
    NOISE,
    NOT_SHOWN,
    UNDECIDED,
    WORSE,
    Answer,
    Compared,
    Repeat,
    Verdicts,
)
from nnunetv2_salstm.evaluation.sentences import Words, counted, on_few, on_method, on_noise, on_ranks
from nnunetv2_salstm.evaluation.statistics import (
    ALPHA,
    FEWEST,
    Estimate,
    Rank,
    count_pairs,
    differences,
    estimate,
    holm,
    pairs_needed,
    rank_stability,
)
from nnunetv2_salstm.evaluation.trainings import (
    by_seed,
    by_unit,
    mean,
    paired,
    paired_means,
    read_arrays,
    read_table,
    units_of,
)

# Half a point of Dice.
MARGIN = 0.005
# n_test / n_train of five folds, nnU-Net's.
FIVE_FOLDS = 0.25


def compare_methods(
    ours: Any,
    theirs: Any = None,
    *,
    baseline: str | None = None,
    groups: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
    margin: float = MARGIN,
    higher_is_better: bool = True,
    overlap: float = FIVE_FOLDS,
    same_as_baseline: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    endpoint: str = "mean Dice",
    digits: int = 4,
) -> Verdicts:
    """Compares methods with a baseline: these trained networks (over cases), and the methods (over trainings).

    Examples:
        >>> import numpy as np
        >>> draw = np.random.default_rng(0)
        >>> cases = draw.normal(0.85, 0.05, 60)
        >>> trained = lambda mean: cases + mean + draw.normal(0, 0.002, (5, 1)) + draw.normal(0, 0.01, (5, 60))
        >>> found = compare_methods(ours=trained(0.02), theirs=trained(0.0))
        >>> found.networks.verdict, found.methods.verdict
        ('better', 'better')

    Args:
        ours: an array (trainings, cases), nan where a training did not predict a case or the metric is undefined. Or,
            without `theirs`, such an array for each method, or a table with the columns method, case, value and, where
            there are several, seed and fold: trainings of equal fold are paired by seed, those left in their order.
        theirs: the array of the baseline; its rows are paired with those of `ours` by their order.
        baseline: the method that others are compared with; the first by default.
        groups: the patient of each case, in the order of the arrays or by case; groups are then the units.
        margin: differences within are equivalent.
        higher_is_better: whether large values are good.
        overlap: n_test / n_train of the trainings, for the corrected resampled t test.
        same_as_baseline: methods that are the baseline trained again (A/A).
        names: what sentences call methods, by method.
        endpoint, digits: what sentences call the values, and their decimal places.

    Raises:
        ValueError: if the scores do not fit together; names what does not.
    """
    scores = ours if theirs is None else {"theirs": theirs, "ours": ours}
    if not isinstance(scores, (Mapping, pd.DataFrame)):
        raise ValueError(f"ours must be a mapping or a table where theirs is not given, got {type(ours).__name__}")
    trainings, cases = read_arrays(scores) if isinstance(scores, Mapping) else read_table(scores)
    if len(trainings) < 2:
        raise ValueError(f"scores must have at least two methods, got {', '.join(trainings) or 'none'}")
    first = next(iter(trainings)) if baseline is None else baseline
    if first not in trainings:
        raise ValueError(f"baseline must be one of {', '.join(trainings)}, got {first!r}")
    if not 0 <= overlap < math.inf or not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive and overlap not negative, got {margin} and {overlap}")
    units = units_of(groups, cases)
    short = {method: (names or {}).get(method, method) for method in trainings}
    words = Words(endpoint, digits, margin, "case" if groups is None else "group")
    means = {method: mean(of_method.values()) for method, of_method in trainings.items()}
    seeds = {method: by_seed(of_method) for method, of_method in trainings.items()}
    repeats = [
        Repeat(short[method], str(seed), str(other), estimate(*paired(theirs, values, units), higher_is_better))
        for method, of_method in seeds.items()
        for (seed, values), (other, theirs) in itertools.combinations(of_method.items(), 2)
    ]
    networks, methods, moved, notes = {}, {}, {}, {}
    for method, of_method in trainings.items():
        if method == first:
            continue
        ours, theirs = paired(means[method], means[first], units)
        networks[method] = estimate(ours, theirs, higher_is_better, margin)
        moved[method] = count_pairs(differences(ours, theirs), higher_is_better)
        of_trainings, notes[method] = paired_means(of_method, trainings[first], units)
        methods[method] = estimate(*of_trainings, higher_is_better, margin, overlap)
    of_networks = _answers(networks, same_as_baseline)
    of_methods = _answers(methods, same_as_baseline, fewest=FEWEST)
    compared = {}
    for method in networks:
        infinite = any(np.isinf(values).any() for side in (method, first) for values in trainings[side].values())
        counts = len(trainings[method]), len(trainings[first]), methods[method].count
        compared[method] = found = Compared(
            short[method],
            short[first],
            of_networks[method],
            _with_advice(of_methods[method], infinite, repeats, overlap, margin),
            moved[method],
            counts,
            method in same_as_baseline,
            notes[method],
        )
        found.sentences.extend(on_method(found, words))
    sentences = [sentence for found in compared.values() for sentence in found.sentences]
    sentences += on_noise(repeats, digits)
    ranks: dict[str, Rank] = {}
    if len(trainings) > 2:
        values = {method: np.array([by_unit(row, units) for row in of.values()]) for method, of in seeds.items()}
        # Nothing has a rank beside what is infinite.
        if not any(np.isinf(rows).any() for rows in values.values()):
            ranks = rank_stability(values, higher_is_better)
        sentences += on_ranks({short[method]: rank for method, rank in ranks.items()}, min(map(len, seeds.values())))
    count = int(units.max()) + 1
    sentences += on_few(count, words.unit)
    return Verdicts(first, compared, repeats, ranks, count, f"{words.unit}s", sentences)


def _answers(found: Mapping[str, Estimate], same: Collection[str], fewest: int = 1) -> dict[str, Answer]:
    """Corrects one question over the methods by Holm's procedure; A/A pairs are no claims and stay out of it."""
    tested = {
        method: result
        for method, result in found.items()
        if result.p is not None and result.count >= fewest and method not in same
    }

    def corrected(name: str) -> dict[str, float]:
        return holm({method: p for method, result in tested.items() if (p := getattr(result, name)) is not None})

    p, within = corrected("p"), corrected("p_equivalent")
    answers = {}
    for method, result in found.items():
        if method in same:
            values = {**vars(result), "p": None, "p_equivalent": None, "false_claim": None}
            answers[method] = Answer(**values, verdict=NOISE, p_uncorrected=result.p)
            continue
        if method not in tested:
            known = ("count", "finite", "ours", "theirs", "difference", "spread")
            answers[method] = Answer(**{name: getattr(result, name) for name in known})
            continue
        equivalent = within.get(method, 1.0) < ALPHA
        verdict = EQUIVALENT if equivalent else NOT_SHOWN
        if p[method] < ALPHA and result.towards:
            verdict = BETTER if result.towards > 0 else WORSE
        values = {**vars(result), "p": p[method], "p_equivalent": within.get(method)}
        equivalence = EQUIVALENT if equivalent else "not decided"
        answers[method] = Answer(**values, verdict=verdict, p_uncorrected=result.p, equivalence=equivalence)
    return answers


def _with_advice(answer: Answer, infinite: bool, repeats: Sequence[Repeat], overlap: float, margin: float) -> Answer:
    """Adds how many trainings would be needed, at the spread seen, where nothing was shown or too few were trained."""
    if answer.verdict not in (NOT_SHOWN, UNDECIDED):
        return answer
    if infinite and not answer.count:
        return replace(answer, why="some values are infinite, and a training has no mean then")
    spread = answer.spread
    if spread is None:
        # Two trainings of one method differ as two of equally noisy methods do.
        gaps = [gap for repeat in repeats if (gap := repeat.networks.difference) is not None]
        spread = math.hypot(*gaps) / math.sqrt(len(gaps)) if gaps else None
    needed = None if spread is None else pairs_needed(spread, margin, overlap)
    if answer.verdict == NOT_SHOWN:
        return replace(answer, needed=needed)
    if spread is None:
        advice = "the spread between trainings is not known yet"
    else:
        number = f"about {needed} pairs" if needed else "no number on these folds"
        advice = f"at the spread seen ({spread:.4f}) {number} would show a difference of {margin:g}"
    why = f"{counted(answer.count, 'pair')} of trainings: train more seeds or folds; {advice}"
    return replace(answer, needed=needed, why=why)
