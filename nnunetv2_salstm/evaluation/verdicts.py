"""Two questions, two answers: do these trained networks differ, and do the methods that made them?"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    import pandas as pd

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent"
NOT_SHOWN, UNDECIDED = "no difference shown", "cannot be decided"
# Half a point of Dice.
MARGIN = 0.005
# n_test / n_train of five folds, nnU-Net's.
FIVE_FOLDS = 0.25
# Below, a study says little about other patients.
FEW_UNITS = 50


@dataclass(frozen=True)
class Answer:
    """The answer to one of the questions about a method against the baseline.

    Attributes:
        verdict: "better", "worse", "equivalent", "no difference shown" or "cannot be decided".
        estimate: what it rests on: differences over units (networks) or over trainings (methods).
        p: two-sided, after Holm's correction over the methods compared.
        p_equivalent: of the equivalence within the margin, corrected likewise.
        needed: pairs of trainings that would show a difference as large as the margin, None where that is not known or
            no number would.
        why: why it cannot be decided, "" where it is.
    """

    verdict: str
    estimate: Estimate
    p: float | None = None
    p_equivalent: float | None = None
    needed: int | None = None
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Mean difference, method - baseline."""
        return self.estimate.difference

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval of the difference, None where nothing can be decided."""
        return None if self.verdict == UNDECIDED else self.estimate.low

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval of the difference, None where nothing can be decided."""
        return None if self.verdict == UNDECIDED else self.estimate.high

    @property
    def equivalence(self) -> str:
        """Whether the difference is shown to lie within the margin: "equivalent" or "not decided"."""
        return EQUIVALENT if self.p_equivalent is not None and self.p_equivalent < ALPHA else "not decided"

    @property
    def false_claim(self) -> float | None:
        """Probability that a claim by the sign of the difference is false, None where nothing can be decided."""
        return None if self.verdict == UNDECIDED else self.estimate.false_claim


@dataclass(frozen=True)
class Compared:
    """A method against the baseline.

    Attributes:
        method, baseline: what readers call them.
        ours, theirs: means over cases, None without a finite one.
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
    ours: float | None
    theirs: float | None
    networks: Answer
    methods: Answer
    pairs: Pairs
    trainings: tuple[int, int, int]
    same_method: bool = False
    notes: list[str] = field(default_factory=list)
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


@dataclass(frozen=True)
class _Wording:
    """How sentences call the endpoint and write its values."""

    endpoint: str
    digits: int
    margin: float
    unit: str

    def number(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        return f"{value:+.{self.digits}f}"

    def interval(self, low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return "no interval from a single pair"
        return f"{CONFIDENCE * 100:.0f} % interval {self.signed(low)} to {self.signed(high)}"


@dataclass(frozen=True)
class _Trainings:
    """The trainings of a method: (seed, fold) of each, and their values, (trainings, cases), nan where there is no."""

    keys: list[tuple[Hashable, Hashable]]
    values: np.ndarray

    def by_case(self) -> np.ndarray:
        """Returns means over the trainings, (cases,)."""
        return _nanmean(self.values)

    def by_seed(self) -> dict[Hashable, np.ndarray]:
        """Returns the values of each seed, its folds put together, (cases,)."""
        seeds = dict.fromkeys(seed for seed, _ in self.keys)
        return {seed: _nanmean(self.values[[key[0] == seed for key in self.keys]]) for seed in seeds}


def compare_methods(
    scores: "Mapping[str, Any] | pd.DataFrame",
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

    Example:
        >>> import numpy as np
        >>> draw = np.random.default_rng(0)
        >>> cases = draw.normal(0.85, 0.05, 60)
        >>> trained = lambda mean: cases + mean + draw.normal(0, 0.002, (5, 1)) + draw.normal(0, 0.01, (5, 60))
        >>> found = compare_methods({"stock": trained(0.0), "A": trained(0.02)})
        >>> found.networks.verdict, found.methods.verdict
        ('better', 'better')

    Args:
        scores: an array (trainings, cases) for each method, nan where a training did not predict a case or the metric
            is undefined, the rows paired by their order; or a table with the columns method, case, value and, where
            there are several, seed and fold: trainings of equal fold are paired by seed, those left in their order.
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
    trainings, cases = _read(scores)
    if len(trainings) < 2:
        raise ValueError(f"scores must have at least two methods, got {', '.join(trainings) or 'none'}")
    first = next(iter(trainings)) if baseline is None else baseline
    if first not in trainings:
        raise ValueError(f"baseline must be one of {', '.join(trainings)}, got {first!r}")
    if not 0 <= overlap < math.inf or not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive and overlap not negative, got {margin} and {overlap}")
    units = _units(groups, cases)
    short = {method: (names or {}).get(method, method) for method in trainings}
    words = _Wording(endpoint, digits, margin, "cases" if groups is None else "groups")
    repeats = _repeats(trainings, short, units, higher_is_better)
    found = {
        method: _compare(trainings[first], trainings[method], units, margin, higher_is_better, overlap)
        for method in trainings
        if method != first
    }
    networks = _correct({method: basis.networks for method, basis in found.items()}, same_as_baseline)
    methods = _correct({method: basis.methods for method, basis in found.items()}, same_as_baseline, fewest=FEWEST)
    compared = {}
    for method, basis in found.items():
        ours, theirs = trainings[method].by_case(), trainings[first].by_case()
        gaps = differences(*_paired_by_unit(ours, theirs, units))
        of_methods = _with_advice(methods[method], basis, repeats, overlap, margin)
        one = Compared(
            short[method],
            short[first],
            _finite_mean(ours),
            _finite_mean(theirs),
            networks[method],
            of_methods,
            count_pairs(gaps, higher_is_better),
            (len(trainings[method].keys), len(trainings[first].keys), basis.paired),
            method in same_as_baseline,
            basis.notes,
        )
        compared[method] = replace(one, sentences=_sentences(one, words))
    matrices = {method: _seeds_by_unit(of_method, units) for method, of_method in trainings.items()}
    ranks = rank_stability(matrices, higher_is_better) if len(trainings) > 2 else {}
    count = len(dict.fromkeys(units))
    verdicts = Verdicts(first, compared, repeats, ranks, count, words.unit, [])
    return replace(verdicts, sentences=_all_sentences(verdicts, words))


@dataclass(frozen=True)
class _Basis:
    """What both answers about a method rest on, before any correction.

    Attributes:
        networks, methods: over units and over trainings.
        paired: how many trainings could be paired.
        notes: what was left out.
        why: why the methods cannot be tested, "" if it is for the number of trainings or they can.
    """

    networks: Estimate
    methods: Estimate
    paired: int
    notes: list[str]
    why: str


def _read(scores: "Mapping[str, Any] | pd.DataFrame") -> tuple[dict[str, _Trainings], list[Hashable]]:
    """Returns the trainings of each method and the cases."""
    if isinstance(scores, Mapping):
        return _read_arrays(scores)
    return _read_table(scores)


def _read_arrays(scores: Mapping[str, Any]) -> tuple[dict[str, _Trainings], list[Hashable]]:
    found = {}
    for method, values in scores.items():
        array = np.asarray(values, float)
        if array.ndim != 2 or not array.size:
            raise ValueError(f"scores of {method} must have the shape (trainings, cases), got {array.shape}")
        found[method] = _Trainings([(row, 0) for row in range(len(array))], array)
    lengths = {method: trainings.values.shape[1] for method, trainings in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"all methods must have the same cases, got {', '.join(f'{m} {n}' for m, n in lengths.items())}"
        )
    return found, list(range(next(iter(lengths.values()), 0)))


def _read_table(table: "pd.DataFrame") -> tuple[dict[str, _Trainings], list[Hashable]]:
    missing = [name for name in ("method", "case", "value") if name not in table.columns]
    if missing:
        raise ValueError(f"the table must have the columns method, case and value; it lacks {', '.join(missing)}")
    rows = table.assign(**{name: 0 for name in ("seed", "fold") if name not in table.columns})
    twice = rows[rows.duplicated(["method", "seed", "fold", "case"])]
    if len(twice):
        where = ", ".join(f"{name} {twice.iloc[0][name]}" for name in ("method", "seed", "fold", "case"))
        raise ValueError(f"each training must have a case once, got twice: {where}")
    cases = list(dict.fromkeys(rows["case"]))
    place = {case: index for index, case in enumerate(cases)}
    found = {}
    for method, of_method in rows.groupby("method", sort=False):
        keys, values = [], []
        expected: dict[Hashable, set[Hashable]] = {}
        for (fold, seed), training in of_method.groupby(["fold", "seed"], sort=False, dropna=False):
            row = np.full(len(cases), np.nan)
            row[[place[case] for case in training["case"]]] = training["value"].to_numpy(float)
            keys.append((seed, fold))
            values.append(row)
            there = set(training["case"])
            unlike = sorted(map(str, expected.setdefault(fold, there) ^ there))
            if unlike:
                raise ValueError(
                    f"all seeds of a fold must have the same cases; those of {method}, fold {fold!s} differ in "
                    f"{', '.join(unlike[:5])}"
                )
        found[str(method)] = _Trainings(keys, np.array(values))
        lacking = [str(case) for case in cases if case not in set(of_method["case"])]
        if lacking:
            raise ValueError(f"all methods must have the same cases; {method} lacks {', '.join(lacking[:5])}")
    return found, cases


def _units(groups: Sequence[Hashable] | Mapping[Any, Hashable] | None, cases: Sequence[Hashable]) -> list[Hashable]:
    if groups is None:
        return list(range(len(cases)))
    if isinstance(groups, Mapping):
        lacking = [str(case) for case in cases if case not in groups]
        if lacking:
            raise ValueError(f"groups must name the group of every case; it lacks {', '.join(lacking[:5])}")
        return [groups[case] for case in cases]
    if len(groups) != len(cases):
        raise ValueError(f"groups must be as many as cases, got {len(groups)} and {len(cases)}")
    return list(groups)


def _compare(
    theirs: _Trainings,
    ours: _Trainings,
    units: Sequence[Hashable],
    margin: float,
    higher_is_better: bool,
    overlap: float,
) -> _Basis:
    """Compares a method's trainings with the baseline's."""
    our_units, their_units = _paired_by_unit(ours.by_case(), theirs.by_case(), units)
    networks = estimate(our_units, their_units, higher_is_better, margin)
    pairs, notes = _pair_trainings(theirs, ours)
    means = []
    for a, b in pairs:
        our_units, their_units = _paired_by_unit(ours.values[a], theirs.values[b], units)
        if len(our_units):
            means.append((float(our_units.mean()), float(their_units.mean())))
    if len(means) < len(pairs):
        notes.append(f"{len(pairs) - len(means)} pairs of trainings have no case in common and are left out.")
    why = ""
    if not all(math.isfinite(value) for pair in means for value in pair):
        means, why = [], "some values are infinite, and a training has no mean then"
    ours_by_training, theirs_by_training = np.array(means).reshape(-1, 2).T
    methods = estimate(ours_by_training, theirs_by_training, higher_is_better, margin, overlap)
    return _Basis(networks, methods, len(means), notes, why)


def _pair_trainings(theirs: _Trainings, ours: _Trainings) -> tuple[list[tuple[int, int]], list[str]]:
    """Returns places of trainings of equal fold: by seed first, those left in their order; and which are left over."""
    pairs = []
    for fold in dict.fromkeys(fold for _, fold in ours.keys):
        a = {seed: place for place, (seed, f) in enumerate(ours.keys) if f == fold}
        b = {seed: place for place, (seed, f) in enumerate(theirs.keys) if f == fold}
        shared = [seed for seed in a if seed in b]
        left = [[place for seed, place in side.items() if seed not in shared] for side in (a, b)]
        pairs += [(a[seed], b[seed]) for seed in shared] + list(zip(*left, strict=False))
    notes = []
    counts = len(ours.keys), len(theirs.keys)
    if max(counts) > len(pairs):
        notes.append(
            f"{counts[0]} trainings against {counts[1]}: {len(pairs)} can be paired within their fold, and the answer "
            "about the methods is from these."
        )
    return pairs, notes


def _correct(found: Mapping[str, Estimate], same: Collection[str], fewest: int = 1) -> dict[str, Answer]:
    """Corrects one question over the methods by Holm's procedure; A/A pairs are no claims and stay out of it."""
    tested = {method: result.p for method, result in found.items() if result.p is not None and result.count >= fewest}
    planned = [method for method in tested if method not in same]
    p = {**tested, **holm({method: tested[method] for method in planned})}
    equivalent = {method: found[method].p_equivalent for method in tested}
    known = {method: value for method in planned if (value := equivalent[method]) is not None}
    equivalent |= holm(known)
    return {
        method: Answer(_verdict(result, p[method], equivalent[method]), result, p[method], equivalent[method])
        if method in tested
        else Answer(UNDECIDED, result)
        for method, result in found.items()
    }


def _verdict(found: Estimate, p: float | None, p_equivalent: float | None) -> str:
    if p is not None and p < ALPHA and found.towards:
        return BETTER if found.towards > 0 else WORSE
    if p_equivalent is not None and p_equivalent < ALPHA:
        return EQUIVALENT
    return NOT_SHOWN


def _with_advice(answer: Answer, basis: _Basis, repeats: Sequence[Repeat], overlap: float, margin: float) -> Answer:
    """Adds how many trainings would be needed, at the spread seen, where nothing was shown or too few were trained."""
    if answer.verdict not in (NOT_SHOWN, UNDECIDED):
        return answer
    if basis.why:
        return replace(answer, why=basis.why)
    spread = answer.estimate.spread
    if spread is None:
        # Two trainings of one method differ as two of equally noisy methods do.
        gaps = [found.networks.difference for found in repeats if found.networks.difference is not None]
        spread = math.sqrt(sum(gap**2 for gap in gaps) / len(gaps)) if gaps else None
    needed = None if spread is None else pairs_needed(spread, margin, overlap)
    if answer.verdict == NOT_SHOWN:
        return replace(answer, needed=needed)
    if spread is None:
        advice = "the spread between trainings is not known yet"
    elif needed:
        advice = f"at the spread seen ({spread:.4f}) about {needed} pairs would show a difference of {margin:g}"
    else:
        advice = f"at the spread seen ({spread:.4f}) no number on these folds would show a difference of {margin:g}"
    pairs = _counted(basis.paired, "pair")
    return replace(answer, needed=needed, why=f"{pairs} of trainings: train more seeds or folds; {advice}")


def _repeats(
    trainings: Mapping[str, _Trainings], short: Mapping[str, str], units: Sequence[Hashable], higher_is_better: bool
) -> list[Repeat]:
    """Compares the first seed of every method with its others."""
    found = []
    for method, of_method in trainings.items():
        (seed, values), *others = of_method.by_seed().items()
        for other, theirs in others:
            later, earlier = _paired_by_unit(theirs, values, units)
            found.append(Repeat(short[method], str(seed), str(other), estimate(later, earlier, higher_is_better)))
    return found


def _paired_by_unit(ours: np.ndarray, theirs: np.ndarray, units: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of both over the cases of each unit that both have, (units,)."""
    there = ~(np.isnan(ours) | np.isnan(theirs))
    order = {unit: place for place, unit in enumerate(dict.fromkeys(np.array(units, object)[there]))}
    if len(order) == there.sum():
        return ours[there], theirs[there]
    places = [order[unit] for unit, known in zip(units, there, strict=True) if known]
    counts = np.bincount(places, minlength=len(order))
    a, b = (np.bincount(places, values[there], len(order)) / counts for values in (ours, theirs))
    return a, b


def _seeds_by_unit(trainings: _Trainings, units: Sequence[Hashable]) -> np.ndarray:
    order = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    rows = []
    for values in trainings.by_seed().values():
        row: list[list[float]] = [[] for _ in order]
        for unit, value in zip(units, values, strict=True):
            if math.isfinite(value):
                row[order[unit]].append(value)
        rows.append([math.fsum(found) / len(found) if found else math.nan for found in row])
    return np.array(rows)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Returns means over the rows of what is not nan; nan where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(axis=0)
    means: np.ndarray = np.divide(total, there.sum(axis=0), out=np.full(total.shape, np.nan), where=there.any(axis=0))
    return means


def _finite_mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _sentences(found: Compared, words: _Wording) -> list[str]:
    """Returns both answers about a method in words."""
    a, b = found.method, found.baseline
    networks, methods = found.networks, found.methods
    if networks.difference is None:
        return [f"{a} cannot be compared with {b}: no case has a {words.endpoint} in both."]
    values = (
        ""
        if found.ours is None or found.theirs is None
        else (f"{words.number(found.ours)} and {words.number(found.theirs)}, ")
    )
    gap = f"difference {words.signed(networks.difference)} ({words.interval(networks.low, networks.high)})"
    units = _counted(networks.estimate.count, words.unit.removesuffix("s"))
    if found.same_method:
        return [
            f"A/A: {a} is the same method as {b}, trained again: {values}{gap} over {units}. "
            "This is the noise of the study, not a finding."
        ]
    moved = (
        f"{found.pairs.improved} better and {found.pairs.worsened} worse by more than a point"
        if words.digits == 4
        else f"{found.pairs.wins} better and {found.pairs.losses} worse"
    )
    says = _says(networks.verdict, a, b, words)
    first = f"These networks: {says}: {values}{gap}{_sureness(networks)}; {units}, {moved}."
    if networks.verdict == UNDECIDED:
        first = f"These networks: {a} against {b} cannot be decided from {units}: {values}{gap}."
    if methods.verdict == UNDECIDED:
        second = f"The methods: {a} against {b} cannot be decided from {methods.why}."
        if found.trainings[2] == 0 and methods.estimate.count == 0:
            second = f"The methods: {a} against {b} cannot be decided: {methods.why}."
        return [first, second]
    second = (
        f"The methods: {_says(methods.verdict, a, b, words)}: difference {words.signed(methods.difference or 0.0)} "
        f"({words.interval(methods.low, methods.high)}){_sureness(methods)}; "
        f"{_counted(methods.estimate.count, 'pair')} of trainings"
    )
    if methods.verdict == NOT_SHOWN:
        second += (
            f", about {methods.needed} would show a difference of {words.margin:g}"
            if methods.needed
            else f"; at their spread no number on these folds would show a difference of {words.margin:g}"
        )
    return [first, f"{second}."]


def _says(verdict: str, a: str, b: str, words: _Wording) -> str:
    if verdict in (BETTER, WORSE):
        return f"{a} is {verdict} than {b} in {words.endpoint}"
    if verdict == EQUIVALENT:
        return f"{a} and {b} are equivalent in {words.endpoint}, within {words.margin:g}"
    return f"no difference shown between {a} and {b} in {words.endpoint}"


def _sureness(answer: Answer) -> str:
    """Returns p and, for a claim, the probability that it is false."""
    if answer.p is None:
        return ""
    text = f", p {p_text(answer.p)}"
    if answer.verdict in (BETTER, WORSE):
        if answer.false_claim is not None:
            text += f", probability of a false claim {percent(answer.false_claim)}"
        if answer.equivalence == EQUIVALENT:
            text += ", within the margin of equivalence"
    return text


def _all_sentences(verdicts: Verdicts, words: _Wording) -> list[str]:
    sentences = [sentence for found in verdicts.compared.values() for sentence in found.sentences]
    noise = noise_sentence(verdicts.repeats, words.digits)
    if noise:
        sentences.append(noise)
    if verdicts.ranks:
        best = min(verdicts.ranks, key=lambda method: verdicts.ranks[method].rank)
        names = {method: found.method for method, found in verdicts.compared.items()}
        names.setdefault(verdicts.baseline, next(iter(verdicts.compared.values())).baseline)
        sentences.append(
            f"Ranks: {names[best]} has the best mean; it stays first in {percent(verdicts.ranks[best].first)} of "
            "resamples of cases and trainings."
        )
    if verdicts.units < FEW_UNITS:
        sentences.append(
            f"Few {words.unit}: {verdicts.units}, fewer than {FEW_UNITS}; what is found here may not hold for others."
        )
    return sentences


def noise_sentence(repeats: Sequence[Repeat], digits: int = 4) -> str:
    """Returns what trainings of one method differ by, "" where no method was trained twice."""
    gaps = [abs(found.networks.difference) for found in repeats if found.networks.difference is not None]
    if not gaps:
        return ""
    called = sum(found.networks.p is not None and found.networks.p < ALPHA for found in repeats)
    pairs = _counted(len(gaps), "pair")
    return (
        f"Noise of this study (A/A): trainings of one method that differ in the seed only differ by "
        f"{median(gaps):.{digits}f} in the median, {max(gaps):.{digits}f} at most ({pairs}; as networks {called} of "
        "them would be called different)."
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def p_text(p: float | None) -> str:
    """Returns a p-value for readers."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def percent(share: float) -> str:
    """Returns a probability or share in per cent."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"
