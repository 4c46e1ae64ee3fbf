"""What is answered about methods: do these trained networks differ, and do the methods that made them?"""

from dataclasses import dataclass, field

from nnunetv2_salstm.evaluation.statistics import Estimate, Pairs, Rank

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent"
NOT_SHOWN, UNDECIDED = "no difference shown", "cannot be decided"
# Of a pair that is one method, trained twice.
NOISE = "noise (A/A)"


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
