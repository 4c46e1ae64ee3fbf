"""Answers in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from nnunetv2_salstm.evaluation.answers import (
    BETTER,
    EQUIVALENT,
    NOT_SHOWN,
    UNDECIDED,
    WORSE,
    Answer,
    Compared,
    Repeat,
)
from nnunetv2_salstm.evaluation.statistics import ALPHA, CONFIDENCE, Rank

# Below, a study says little about other patients.
FEW_UNITS = 50


@dataclass(frozen=True)
class Words:
    """How sentences call the endpoint and write its values."""

    endpoint: str
    digits: int
    margin: float
    unit: str

    def signed(self, value: float | None) -> str:
        """Returns a difference or an end of an interval, with its sign."""
        return f"{value or 0.0:+.{self.digits}f}"

    def gap(self, answer: Answer, means: bool = False) -> str:
        """Returns means if wanted, difference, interval, p and, for a claim, the probability that it is false."""
        p = "" if answer.p is None else f", p {'< 0.0001' if answer.p < 1e-4 else f'{answer.p:.4f}'}"
        text = ""
        if infinite := answer.count - answer.finite:
            text = f"infinite in {infinite} of {counted(answer.count, self.unit)}"
            if answer.test == "signed-rank":
                text, p = f"{text}{p} (Wilcoxon's, over all)", ""
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
                text += f", probability of a false claim {percent(answer.false_claim)}"
            if answer.equivalence == EQUIVALENT:
                text += ", within the margin of equivalence"
        return text

    def says(self, verdict: str, a: str, b: str) -> str:
        """Returns a verdict about a against b, but for one that there is none."""
        return {
            BETTER: f"{a} is better than {b} in {self.endpoint}",
            WORSE: f"{a} is worse than {b} in {self.endpoint}",
            EQUIVALENT: f"{a} and {b} are equivalent in {self.endpoint}, within {self.margin:g}",
            NOT_SHOWN: f"no difference shown between {a} and {b} in {self.endpoint}",
        }[verdict]


def on_method(found: Compared, words: Words) -> list[str]:
    """Returns both answers about a method in words."""
    a, b, networks, methods, pairs = found.method, found.baseline, found.networks, found.methods, found.pairs
    if not networks.count:
        return [f"{a} cannot be compared with {b}: no case has a {words.endpoint} in both."]
    gap, units = words.gap(networks, means=True), counted(networks.count, words.unit)
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
        number = counted(methods.count, "pair")
        second = f"{words.says(methods.verdict, a, b)}: {words.gap(methods)}; {number} of trainings"
        if methods.verdict == NOT_SHOWN and methods.needed and methods.needed <= methods.count:
            second += f", enough to show a difference of {words.margin:g} four times in five"
        elif methods.verdict == NOT_SHOWN and methods.needed:
            second += f", about {methods.needed} would show a difference of {words.margin:g}"
        elif methods.verdict == NOT_SHOWN:
            second += f"; at their spread no number on these folds would show a difference of {words.margin:g}"
        second += "."
    return [f"These networks: {first}", f"The methods: {second}", *left_out]


def on_noise(repeats: Sequence[Repeat], digits: int) -> list[str]:
    """Returns a sentence on what trainings of one method differ by, none where they share no case."""
    gaps = [abs(gap) for repeat in repeats if (gap := repeat.networks.difference) is not None]
    if not gaps:
        return []
    called = sum(repeat.networks.p is not None and repeat.networks.p < ALPHA for repeat in repeats)
    return [
        f"Noise of this study (A/A): trainings of one method that differ in the seed only differ by "
        f"{median(gaps):.{digits}f} in the median, {max(gaps):.{digits}f} at most ({counted(len(gaps), 'pair')}; as "
        f"networks {called} of them would be called different)."
    ]


def on_ranks(ranks: Mapping[str, Rank], seeds: int) -> list[str]:
    """Returns a sentence on the best of several methods; without ranks, why there are none.

    Args:
        ranks: by the methods' names.
        seeds: of the method with the fewest; a single one cannot be drawn anew.
    """
    if not ranks:
        return ["Ranks: none, as some values are infinite, where a structure was missed."]
    best = min(ranks, key=lambda method: ranks[method].rank)
    drawn = "cases and trainings" if seeds > 1 else "cases; what other trainings would change is not in it"
    return [f"Ranks: {best} has the best mean; it stays first in {percent(ranks[best].first)} of resamples of {drawn}."]


def on_few(units: int, unit: str) -> list[str]:
    """Returns a sentence on how many cases or groups there are, none where they are many."""
    if units >= FEW_UNITS:
        return []
    return [f"Few {unit}s: {units}, fewer than {FEW_UNITS}; what is found here may not hold for others."]


def counted(count: int, what: str) -> str:
    """Returns how many there are, e.g. "1 case" and "2 cases"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def percent(share: float) -> str:
    """Returns a probability or share in per cent."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"
