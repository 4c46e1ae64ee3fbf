"""A comparison as a whole, and its JSON file: written for programs, read back for studies."""

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_salstm.evaluation.answers import Answer, Verdicts
from nnunetv2_salstm.evaluation.metrics import SURFACE
from nnunetv2_salstm.evaluation.results import Endpoint, Results, finite, long_table, wide_table
from nnunetv2_salstm.evaluation.statistics import FEWEST, POINT
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import plain, read_json

FORMAT = 2
# What is shown of subgroups.
SUBGROUPS = ["method", "subgroup", "count", "difference", "low", "high", "p_holm"]


@dataclass(frozen=True)
class Comparison:
    """What was compared, what was found, and what a reader has to know before believing it.

    Attributes:
        title: what was compared.
        inputs: command, reference, runs, labels, ignored_label, tolerances, reader, unit of distances.
        runs: names of the runs of each method.
        results: the scores.
        endpoint: the primary one.
        confounders: sentences on what else than the network differs between the methods.
        cost: by method and quantity.
        failures: predictions that could not be scored, with the reason.
        versions: of the packages.
        trainings: what is known of every training: trainer, fold, epochs, torch, device, nnU-Net.
        subgroups: the subgroup of each case, {} without.
        published: somebody else's Dice by case, {} without.
        identity_tests: of each method with blocks the rows of `identity_test.losses`, {} where they were not asked for.
    """

    title: str
    inputs: dict[str, Any]
    runs: dict[str, list[str]]
    results: Results
    endpoint: Endpoint
    confounders: list[str]
    cost: dict[str, dict[str, float]]
    failures: list[str]
    versions: dict[str, str]
    trainings: list[dict[str, str]] = field(default_factory=list)
    subgroups: dict[str, str] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    identity_tests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What is said of networks and methods in the primary endpoint."""
        return self.results.verdicts(self.endpoint)

    def sentences_on_blocks(self) -> list[str]:
        """Returns for each method whose blocks were switched off what it loses without them."""
        from nnunetv2_salstm.evaluation.identity_test import sentence

        return [
            f"{self.results.short[method]}: {sentence(pd.DataFrame(rows))}"
            for method, rows in self.identity_tests.items()
        ]

    def overview(self) -> pd.DataFrame:
        """Returns a row for each method, named as readers call it, with the columns that reports show."""
        verdicts, results, label = self.verdicts, self.results, self.endpoint.label
        summary = results.summary().set_index(["method", "label", "metric"])
        # Between seeds, each over all its folds.
        seeds = finite(results.values(label, self.endpoint.metric)).groupby(["method", "seed"])["value"].mean()
        seed_spread = seeds.groupby("method").std()
        rows = []
        for name in results.methods:
            own = summary.loc[(name, label, self.endpoint.metric)]
            row: dict[str, Any] = {
                "method": results.short[name],
                "mean": own["mean"],
                "infinite": own["infinite"],
                "spread": own["spread"],
                "seed_spread": seed_spread.get(name, math.nan),
            }
            for metric in SURFACE:
                if metric in results.metrics and metric != self.endpoint.metric:
                    other = summary.loc[(name, results.all_labels[0], metric)]
                    row |= {metric: other["mean"], f"{metric}_infinite": other["infinite"]}
            if name in verdicts.compared:
                found = verdicts[name]
                row |= {"difference": found.networks.difference, "methods_difference": found.methods.difference}
                row |= asdict(found.pairs)
                row |= _columns("networks", found.networks) | _columns("methods", found.methods)
            if verdicts.ranks:
                rank = verdicts.ranks[name]
                row |= {"rank": rank.rank, "rank_low": rank.low, "rank_high": rank.high, "first": rank.first}
            rows.append(row)
        return pd.DataFrame(rows)

    def noise(self) -> pd.DataFrame:
        """Returns a row for each pair of trainings of one method: method, first, second, difference, low, high."""
        rows = [
            (pair.method, pair.first, pair.second, pair.networks.difference, pair.networks.low, pair.networks.high)
            for pair in self.verdicts.repeats
        ]
        return pd.DataFrame(rows, columns=["method", "first", "second", "difference", "low", "high"])

    def tables(self) -> dict[str, pd.DataFrame]:
        """Returns what reports show, methods named as readers call them.

        The tables are methods (see `overview`), summary, secondary, trainings, subgroups and published of `Results`,
        runs (what is known of every training), noise, differences of every case by label in the endpoint's metric, and
        pairs (ours, theirs) of every case in the endpoint.
        """
        results, endpoint = self.results, self.endpoint
        pairs = [
            results.pairs(method, label, endpoint.metric).assign(method=method, label=label)
            for method in results.methods[1:]
            for label in results.all_labels
        ]
        by_label = pd.concat(pairs)
        subgroups = results.subgroups(endpoint, self.subgroups)
        tables = {
            "summary": results.summary(),
            "secondary": results.secondary(endpoint),
            "trainings": results.trainings(endpoint),
            "runs": pd.DataFrame(self.trainings),
            "subgroups": subgroups.reindex(columns=SUBGROUPS),
            "published": results.beside_published(self.published) if self.published else pd.DataFrame(),
            "differences": by_label.assign(difference=by_label["ours"] - by_label["theirs"]),
            "pairs": by_label[by_label["label"] == endpoint.label],
        }
        for name, table in tables.items():
            if "method" in table:
                tables[name] = table.assign(method=table["method"].map(results.short))
        return {"methods": self.overview(), "noise": self.noise(), **tables}

    def notes(self) -> list[str]:
        """Returns what the numbers mean, one line each."""
        results, unit = self.results, self.inputs["unit"]
        short = results.short[results.baseline]
        notes = [f"{results.short[name]} is {', '.join(self.runs[name])}." for name in results.methods]
        notes += [
            "Means are over cases, over the trainings of a case first. Both masks empty: undefined, left out and "
            "counted. One empty: Dice, IoU and surface Dice 0, HD95 infinite, counted, left out of means and ranked "
            "worst.",
            f"Difference: method minus {short}, paired, over cases that both have.",
            "These networks: Student's t over "
            + ("groups of cases" if results.groups else "cases")
            + "; its interval is what other cases would change. Where differences are infinite, p is Wilcoxon's.",
            "The methods: over pairs of trainings of equal fold and seed, the corrected resampled t test (Nadeau and "
            f"Bengio 2003) with n_test / n_train = {results.overlap:.3g}"
            + ("" if self.trainings else ", that of five folds, as what they were trained on is not known")
            + f"; its interval is what other trainings would change. At least {FEWEST} pairs.",
            "p (Holm): in the primary endpoint corrected over the methods, separately for both questions; of other "
            "labels and metrics over all rows of a metric. Intervals are not corrected.",
            "False claim: the probability that better, or worse, is false, from the t distribution of the difference "
            "(Christodoulou et al. 2025; for trainings Corani and Benavoli 2015).",
            f"Equivalent: two one-sided tests show the difference to be within {self.endpoint.margin:g}. No difference "
            "shown is not equal.",
            f"Moved: {'groups' if results.groups else 'cases'} that are more than {POINT:g} better or worse.",
            "Noise (A/A): trainings of one method, which differ by chance alone.",
        ]
        if self.identity_tests:
            notes.append(
                "Without its blocks: predicted anew, with and without them, without nnU-Net's mirroring, so that Dice "
                "with them may differ from the table's."
            )
        if "hd95" in results.metrics:
            tolerances = ", ".join(f"{name} {value:g} {unit}" for name, value in self.inputs["tolerances"].items())
            notes.append(
                "HD95: 95th percentile of surface distances, the larger of both directions. Surface Dice: share of "
                f"both surfaces within {tolerances}."
            )
        if "volume_error" in results.metrics:
            notes.append("Volume error: |prediction - reference| / reference.")
        return notes

    def to_json(self) -> str:
        """Returns everything for programs; infinite values are "inf", undefined ones null."""
        verdicts, results = self.verdicts, self.results
        wide = wide_table(results.table)
        values = {
            "format": FORMAT,
            "title": self.title,
            "inputs": self.inputs,
            "baseline": results.baseline,
            "methods": {
                name: {
                    "short": results.short[name],
                    "runs": self.runs[name],
                    "same_as_baseline": name in results.same_as_baseline,
                }
                for name in results.methods
            },
            "endpoint": asdict(self.endpoint),
            "overlap": results.overlap,
            "sentences": verdicts.sentences,
            "verdicts": {name: asdict(found) for name, found in verdicts.compared.items()},
            "repeats": [asdict(repeat) for repeat in verdicts.repeats],
            "ranks": {name: asdict(rank) for name, rank in verdicts.ranks.items()},
            "confounders": self.confounders,
            "failures": self.failures,
            "cost": self.cost,
            "summary": results.summary().to_dict("records"),
            "secondary": results.secondary(self.endpoint).to_dict("records"),
            "subgroups": results.subgroups(self.endpoint, self.subgroups).to_dict("records"),
            "subgroup_of_case": self.subgroups,
            "beside_published": results.beside_published(self.published).to_dict("records") if self.published else [],
            "published": self.published,
            "identity_tests": self.identity_tests,
            "trainings": self.trainings,
            "scores": {"columns": list(wide.columns), "rows": wide.to_numpy().tolist()},
            "versions": self.versions,
        }
        return json.dumps(plain(values), indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Returns a row for each training, case and label; infinite values are inf, undefined ones empty."""
        wide = wide_table(self.results.table)
        voxels = [name for name in wide.columns if name.endswith("_voxels")]
        text: str = wide.astype(dict.fromkeys(voxels, int)).to_csv(index=False, lineterminator="\n")
        return text

    @classmethod
    def read(cls, file: Path) -> "Comparison":
        """Reads a file of `nnUNetv2_salstm compare --json`.

        Raises:
            SalstmError: if it cannot be read, is damaged or of another format.
        """
        values = read_json(file, "a comparison")
        if values.get("format") != FORMAT:
            raise SalstmError(
                f"{file} must be a comparison of format {FORMAT}, got {values.get('format')}; make it anew with: "
                "nnUNetv2_salstm compare"
            )
        try:
            return cls._of(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SalstmError(f"{file} is damaged: {type(error).__name__} {error}") from None

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "Comparison":
        columns = values["scores"]["columns"]
        wide = pd.DataFrame([[_number(v) for v in row] for row in values["scores"]["rows"]], columns=columns)
        results = Results(
            long_table(wide),
            list(values["methods"]),
            list(dict.fromkeys(wide["label"])),
            list(dict.fromkeys(row["metric"] for row in values["summary"])),
            [name for name, method in values["methods"].items() if method["same_as_baseline"]],
            values["overlap"],
        )
        return cls(
            values["title"],
            values["inputs"],
            {name: method["runs"] for name, method in values["methods"].items()},
            results,
            Endpoint(**values["endpoint"]),
            values["confounders"],
            values["cost"],
            values["failures"],
            values["versions"],
            values["trainings"],
            values["subgroup_of_case"],
            values["published"],
            values["identity_tests"],
        )


def _columns(question: str, answer: Answer) -> dict[str, Any]:
    return {
        f"{question}_verdict": answer.verdict,
        f"{question}_equivalence": answer.equivalence,
        f"{question}_low": answer.low,
        f"{question}_high": answer.high,
        f"{question}_p": answer.p_uncorrected,
        f"{question}_p_holm": answer.p,
        f"{question}_false_claim": answer.false_claim,
        f"{question}_count": answer.count,
    }


def _number(value: Any) -> Any:
    return math.inf if value == "inf" else math.nan if value is None else value
