"""A comparison read back from its JSON file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nnunetv2_salstm.evaluation.metrics import METRICS, Scores
from nnunetv2_salstm.evaluation.results import Results, ScoredCase
from nnunetv2_salstm.evaluation.runs import Arm, Run
from nnunetv2_salstm.evaluation.statistics import Comparison
from nnunetv2_salstm.reporting.comparison import FORMAT


@dataclass(frozen=True)
class WrittenReport:
    """What a comparison's JSON file says.

    Attributes:
        results: the scores of every case.
        comparisons: of every arm but the first with the first, by arm, label and metric, as they were found then.
        verdicts, unlike, failures: sentences.
        tolerances: of the surface Dice by label, in mm.
        versions: of the packages that made it.
    """

    results: Results
    comparisons: Mapping[tuple[str, str, str], Comparison]
    verdicts: list[str]
    unlike: list[str]
    failures: list[str]
    tolerances: dict[str, float]
    versions: dict[str, str]

    @classmethod
    def read(cls, file: Path) -> "WrittenReport":
        """Reads a file of `nnUNetv2_salstm compare --json`.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is damaged or of another format.
        """
        values = json.loads(file.read_text())
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise ValueError(f"its format must be {FORMAT}, got {found}")
        try:
            return cls._of(values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__} {error}") from None

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "WrittenReport":
        known = [field.name for field in fields(Comparison)]
        return cls(
            Results(
                [Arm(name, [Run(run, {}) for run in runs]) for name, runs in values["arms"].items()],
                list(values["inputs"]["labels"]),
                [
                    ScoredCase(
                        case["arm"],
                        case["run"],
                        case["fold"],
                        case["case"],
                        {label: _scores(scores) for label, scores in case["labels"].items()},
                    )
                    for case in values["cases"]
                ],
                {case["case"]: case["group"] for case in values["cases"] if case["group"] is not None},
            ),
            {
                (found["arm"], found["label"], found["metric"]): Comparison(**{name: found[name] for name in known})
                for found in values["comparisons"]
            },
            values["verdicts"],
            values["not_like_for_like"],
            values["failures"],
            values["inputs"]["tolerances"],
            values["versions"],
        )


def _scores(values: dict[str, Any]) -> Scores:
    # The only ones that JSON cannot hold.
    infinite = {name: math.inf for name in METRICS if name in values["infinite"]}
    return Scores(**{field.name: values[field.name] for field in fields(Scores)} | infinite)
