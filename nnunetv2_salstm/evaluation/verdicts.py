"""Two questions, two answers: do these trained networks differ, and do the methods that made them?"""

import itertools
import math
import warnings
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from nnunetv2_salstm.evaluation.statistics import (
    ALPHA,
    CONFIDENCE,
    FEWEST,
    Estimate,
    Pairs,
    Rank,
    count_pairs,
    differences,
    estimate,
    holm,
    pairs_needed,
    rank_stability,
)

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent"
NOT_SHOWN, UNDECIDED = "no difference shown", "cannot be decided"
# Of a pair that is one method, trained twice.
NOISE = "noise (A/A)"
# Half a point of Dice.
MARGIN = 0.005
# n_test / n_train of five folds, nnU-Net's.
FIVE_FOLDS = 0.25
# Below, a study says little about other patients.
FEW_UNITS = 50

# The values of a method's trainings, (cases,) each, by seed and fold; nan where there is none.
_Trainings: TypeAlias = dict[tuple[Hashable, Hashable], np.ndarray]


@dataclass(frozen=True)
class Answer(Estimate):
    """The answer to one of the questions about a method against the baseline.

    Interval, p and probability of a false claim are None where nothing can be decided.

    Attributes:
        p, p_equivalent: after Holm's correction over the methods compared.
        verdict: "better", "worse", "equivalent", "no difference shown", "cannot be decided" or "noise (A/A)".
        p_uncorrected: of the difference.
        equivalence: whether the difference is shown to lie within the margin: "equivalent" or "not decided".
        needed: pairs of trainings that would show a difference as large as the margin, None where that is not known or
            no number would.
        why: why it cannot be decided, "" where it is.
    """

    verdict: str = UNDECIDED
    p_uncorrected: float | None = None
    equivalence: str = "not decided"
    needed: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Compared:
    """A method against the baseline.

    Attributes:
        method, baseline: what readers call them.
        networks: whether these trained networks differ, paired over units.
        methods: whether the methods differ, paired over trainings.
        pairs: units that are better, equal and worse, and that moved by more than a point.
        trainings: those of the method and of the baseline, and how many of them could be paired.
        same_method: whether both are one method, trained twice (A/A).
        notes: what was left out.
        sentences: both answers in words; one sentence about the noise for an A/A pair.
    """

    method: str
    baseline: str
    networks: Answer
    methods: Answer
    pairs: Pairs
    trainings: tuple[int, int, int]
    same_method: bool
    notes: list[str]
    sentences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Repeat:
    """Two trainings of one method, which differ by chance only (A/A): the noise of the study."""

    method: str
    first: str
    second: str
    networks: Estimate


@dataclass(frozen=True)
class Verdicts:
    """What a comparison says in its primary endpoint.

    Attributes:
        baseline: the method that others are compared with.
        compared: every other method.
        repeats: pairs of trainings of one method.
        ranks: of all methods, {} for two.
        units: cases, or groups of them, in the comparison.
        unit: what they are called: "cases" or "groups".
        sentences: all of it in words, the answers first.
    """

    baseline: str
    compared: dict[str, Compared]
    repeats: list[Repeat]
    ranks: dict[str, Rank]
    units: int
    unit: str
    sentences: list[str]

    def __getitem__(self, method: str) -> Compared:
        """Returns what was found about a method."""
        return self.compared[method]

    def __str__(self) -> str:
        """The sentences, one a line."""
        return "\n".join(self.sentences)

    @property
    def networks(self) -> Answer:
        """The answer about these networks, where a single method is compared."""
        return self._single().networks

    @property
    def methods(self) -> Answer:
        """The answer about the methods, where a single one is compared."""
        return self._single().methods

    def _single(self) -> Compared:
        if len(self.compared) != 1:
            raise ValueError(
                f"{len(self.compared)} methods were compared; ask for one of {', '.join(self.compared)} by its name"
            )
        return next(iter(self.compared.values()))


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
    trainings, cases = _read_arrays(scores) if isinstance(scores, Mapping) else _read_table(scores)
    if len(trainings) < 2:
        raise ValueError(f"scores must have at least two methods, got {', '.join(trainings) or 'none'}")
    first = next(iter(trainings)) if baseline is None else baseline
    if first not in trainings:
        raise ValueError(f"baseline must be one of {', '.join(trainings)}, got {first!r}")
    if not 0 <= overlap < math.inf or not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive and overlap not negative, got {margin} and {overlap}")
    units = _units(groups, cases)
    short = {method: (names or {}).get(method, method) for method in trainings}
    words = _Words(endpoint, digits, margin, "case" if groups is None else "group")
    by_case = {method: _mean(of_method.values()) for method, of_method in trainings.items()}
    by_seed = {method: _by_seed(of_method) for method, of_method in trainings.items()}
    repeats = [
        Repeat(short[method], str(seed), str(other), estimate(*_paired(theirs, values, units), higher_is_better))
        for method, of_method in by_seed.items()
        for (seed, values), (other, theirs) in itertools.combinations(of_method.items(), 2)
    ]
    networks, methods, moved, notes = {}, {}, {}, {}
    for method, of_method in trainings.items():
        if method == first:
            continue
        ours, theirs = _paired(by_case[method], by_case[first], units)
        networks[method] = estimate(ours, theirs, higher_is_better, margin)
        moved[method] = count_pairs(differences(ours, theirs), higher_is_better)
        means, notes[method] = _training_means(of_method, trainings[first], units)
        methods[method] = estimate(*means, higher_is_better, margin, overlap)
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
        found.sentences.extend(_sentences(found, words))
    sentences = [sentence for found in compared.values() for sentence in found.sentences]
    if repeats:
        sentences += _noise(repeats, digits)
    ranks: dict[str, Rank] = {}
    if len(trainings) > 2 and any(np.isinf(row).any() for seeds in by_seed.values() for row in seeds.values()):
        sentences.append("Ranks: none, as some values are infinite, where a structure was missed.")
    elif len(trainings) > 2:
        values_of = {
            method: np.array([_by_unit(row, units) for row in seeds.values()]) for method, seeds in by_seed.items()
        }
        ranks = rank_stability(values_of, higher_is_better)
        best = min(ranks, key=lambda method: ranks[method].rank)
        sentences.append(
            f"Ranks: {short[best]} has the best mean; it stays first in {_percent(ranks[best].first)} of resamples of "
            "cases and trainings."
        )
    count = int(units.max()) + 1
    if count < FEW_UNITS:
        sentences.append(
            f"Few {words.unit}s: {count}, fewer than {FEW_UNITS}; what is found here may not hold for others."
        )
    return Verdicts(first, compared, repeats, ranks, count, f"{words.unit}s", sentences)


def _read_arrays(scores: Mapping[str, Any]) -> tuple[dict[str, _Trainings], Sequence[Hashable]]:
    found: dict[str, _Trainings] = {}
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


def _read_table(table: pd.DataFrame) -> tuple[dict[str, _Trainings], Sequence[Hashable]]:
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
        trainings: _Trainings = {}
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


def _units(groups: Sequence[Hashable] | Mapping[Any, Hashable] | None, cases: Sequence[Hashable]) -> np.ndarray:
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


def _training_means(
    ours: _Trainings, theirs: _Trainings, units: np.ndarray
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
    shared = [both for pair in pairs if len((both := _paired(*pair, units))[0])]
    if len(shared) < len(pairs):
        notes.append(f"{len(pairs) - len(shared)} pairs of trainings have no case in common and are left out.")
    our_means, their_means = ([float(pair[side].mean()) for pair in shared] for side in (0, 1))
    if not np.isfinite([our_means, their_means]).all():
        return ([], []), notes
    return (our_means, their_means), notes


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
    why = f"{_counted(answer.count, 'pair')} of trainings: train more seeds or folds; {advice}"
    return replace(answer, needed=needed, why=why)


def _by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Returns the means over the cases of each unit that are not nan, (units,); nan where all are."""
    there = ~np.isnan(values)
    counts = np.bincount(units[there], minlength=units.max() + 1)
    total = np.bincount(units[there], values[there], len(counts))
    means: np.ndarray = np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means


def _paired(ours: np.ndarray, theirs: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of both over the cases of each unit that both have, (units,)."""
    neither = np.isnan(ours) | np.isnan(theirs)
    a, b = (_by_unit(np.where(neither, np.nan, values), units) for values in (ours, theirs))
    return a[~np.isnan(a)], b[~np.isnan(b)]


def _by_seed(trainings: _Trainings) -> dict[Hashable, np.ndarray]:
    """Returns the values of each seed, its folds put together, (cases,)."""
    seeds = dict.fromkeys(seed for seed, _ in trainings)
    return {seed: _mean(values for (other, _), values in trainings.items() if other == seed) for seed in seeds}


def _mean(trainings: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the means over trainings of what is not nan; nan where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice"
        means: np.ndarray = np.nanmean(list(trainings), axis=0)
    return means


@dataclass(frozen=True)
class _Words:
    """How sentences call the endpoint and write its values."""

    endpoint: str
    digits: int
    margin: float
    unit: str

    def signed(self, value: float | None) -> str:
        return f"{value or 0.0:+.{self.digits}f}"

    def gap(self, answer: Answer, means: bool = False) -> str:
        """Returns means if wanted, difference, interval, p and, for a claim, the probability that it is false."""
        p = "" if answer.p is None else f", p {'< 0.0001' if answer.p < 1e-4 else f'{answer.p:.4f}'}"
        text = ""
        if answer.test == "signed-rank":
            text = f"infinite in {answer.count - answer.finite} of {_counted(answer.count, self.unit)}{p} "
            text, p = f"{text}(Wilcoxon's, over all)", ""
            if answer.difference is None:
                return text
            text += "; over the others "
        if means:
            text += f"{answer.ours:.{self.digits}f} and {answer.theirs:.{self.digits}f}, "
        interval = "no interval from a single pair" if answer.finite == 1 else "no interval, as all differ alike"
        if answer.low is not None:
            interval = f"{CONFIDENCE * 100:.0f} % interval {self.signed(answer.low)} to {self.signed(answer.high)}"
        text += f"difference {self.signed(answer.difference)} ({interval}){p}"
        if answer.verdict in (BETTER, WORSE):
            if answer.false_claim is not None:
                text += f", probability of a false claim {_percent(answer.false_claim)}"
            if answer.equivalence == EQUIVALENT:
                text += ", within the margin of equivalence"
        return text

    def says(self, verdict: str, a: str, b: str) -> str:
        return {
            BETTER: f"{a} is better than {b} in {self.endpoint}",
            WORSE: f"{a} is worse than {b} in {self.endpoint}",
            EQUIVALENT: f"{a} and {b} are equivalent in {self.endpoint}, within {self.margin:g}",
            NOT_SHOWN: f"no difference shown between {a} and {b} in {self.endpoint}",
        }[verdict]


def _sentences(found: Compared, words: _Words) -> list[str]:
    """Returns both answers about a method in words."""
    a, b, networks, methods, pairs = found.method, found.baseline, found.networks, found.methods, found.pairs
    if not networks.count:
        return [f"{a} cannot be compared with {b}: no case has a {words.endpoint} in both."]
    gap, units = words.gap(networks, means=True), _counted(networks.count, words.unit)
    left_out = [f"{a} and {b}: {note}" for note in found.notes]
    if found.same_method:
        return [
            f"A/A: {a} is the same method as {b}, trained again: {gap} over {units}. "
            "This is the noise of the study, not a finding.",
            *left_out,
        ]
    if networks.verdict == UNDECIDED:
        first = f"{a} against {b} cannot be decided from {units}: {gap}."
    else:
        moved = f"{pairs.wins} better and {pairs.losses} worse"
        if words.digits == 4:
            moved = f"{pairs.improved} better and {pairs.worsened} worse by more than a point"
        first = f"{words.says(networks.verdict, a, b)}: {gap}; {units}, {moved}."
    if methods.verdict == UNDECIDED:
        second = f"{a} against {b} cannot be decided{' from' if methods.count else ':'} {methods.why}."
    else:
        number = _counted(methods.count, "pair")
        second = f"{words.says(methods.verdict, a, b)}: {words.gap(methods)}; {number} of trainings"
        if methods.verdict == NOT_SHOWN and methods.needed and methods.needed <= methods.count:
            second += f", enough to show a difference of {words.margin:g} four times in five"
        elif methods.verdict == NOT_SHOWN and methods.needed:
            second += f", about {methods.needed} would show a difference of {words.margin:g}"
        elif methods.verdict == NOT_SHOWN:
            second += f"; at their spread no number on these folds would show a difference of {words.margin:g}"
        second += "."
    return [f"These networks: {first}", f"The methods: {second}", *left_out]


def _noise(repeats: Sequence[Repeat], digits: int) -> list[str]:
    """Returns a sentence on what trainings of one method differ by, none where they share no case."""
    gaps = [abs(gap) for repeat in repeats if (gap := repeat.networks.difference) is not None]
    if not gaps:
        return []
    called = sum(repeat.networks.p is not None and repeat.networks.p < ALPHA for repeat in repeats)
    return [
        f"Noise of this study (A/A): trainings of one method that differ in the seed only differ by "
        f"{median(gaps):.{digits}f} in the median, {max(gaps):.{digits}f} at most ({_counted(len(gaps), 'pair')}; as "
        f"networks {called} of them would be called different)."
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _percent(share: float) -> str:
    """Returns a probability or share in per cent."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"
