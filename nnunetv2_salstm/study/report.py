"""A study's report: what its comparisons and logs say together, as Markdown and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunetv2_salstm.evaluation.metrics import METRICS
from nnunetv2_salstm.evaluation.results import MEAN
from nnunetv2_salstm.evaluation.runs import Arm, Run, arms_of, short_names
from nnunetv2_salstm.evaluation.statistics import CONFIDENCE
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.reporting.comparison import number, p_value, signed, titled
from nnunetv2_salstm.study.hours import Data, Hours, hours_of
from nnunetv2_salstm.study.places import Place, Spread, data_names, read_places
from nnunetv2_salstm.study.study import Study, epochs_of
from nnunetv2_salstm.study.tasks import Compare, Report, Task, Train
from nnunetv2_salstm.tables import markdown_list, markdown_table

FORMAT = 1
# Those that are shown; each comparison's own page has all.
SHOWN = ("dice", "hd95", "nsd")


@dataclass(frozen=True)
class StudyReport:
    """What a study has found so far.

    Attributes:
        study: the study.
        text: of its file.
        arms: the first is the baseline.
        places: the comparisons that there are.
        missing: why others are not there, by place.
        data: on what was trained, by name for readers.
        hours: by arm.
        spreads: by place, arm and metric.
    """

    study: Study
    text: str
    arms: list[Arm]
    places: list[Place]
    missing: dict[str, str]
    data: dict[str, Data]
    hours: dict[str, Hours]
    spreads: dict[tuple[str, str, str], Spread]

    @classmethod
    def collect(cls, study: Study, tasks: Sequence[Task]) -> "StudyReport":
        """Reads the comparisons and logs that are there.

        Raises:
            SalstmError: if there is no comparison, or one cannot be read.
        """
        comparisons = [task for task in tasks if isinstance(task, Compare)]
        if not comparisons:
            raise SalstmError(f"{study.file} compares nothing, as it names one trainer; name a second to compare with")
        places, missing = read_places(study, comparisons)
        if not places:
            raise SalstmError(
                f"none of the {len(comparisons)} comparisons of {study.name} is there yet; make them with: "
                f"nnUNetv2_salstm matrix {study.file}"
            )
        arms = arms_of(Run(run, {}) for trainer in study.trainers for run in study.runs_of(trainer))
        hours = hours_of(arms, [task for task in tasks if isinstance(task, Train)])
        spreads = {
            (place.name, arm.name, metric): Spread.of(place, arm.name, metric)
            for place in places
            for arm in arms
            for metric in SHOWN
        }
        names = data_names(comparisons)
        data = {names[task.name]: (task.dataset.name, task.plans, task.configuration) for task in comparisons}
        return cls(study, study.file.read_text(), arms, places, missing, data, hours, spreads)

    @property
    def short(self) -> dict[str, str]:
        """What arms are called, by name."""
        return short_names(self.arms)

    @property
    def baseline(self) -> str:
        """What the first arm is called."""
        return self.short[self.arms[0].name]

    @property
    def title(self) -> str:
        """What was compared."""
        _, *others = self.short.values()
        return f"Study {self.study.name}: {', '.join(others)} against {self.baseline}"

    def introduction(self) -> str:
        """Returns a sentence on what was trained, and one on what is compared."""
        study = self.study
        datasets = dict.fromkeys(dataset for dataset, *_ in self.data.values())
        runs = [run.name for arm in self.arms for run in arm.runs]
        epochs = dict.fromkeys(epochs_of(run) for run in runs)
        facts = [
            f"{len(self.arms)} arms on {', '.join(datasets)}",
            f"configuration{_s(study.configurations)} {_joined(study.configurations)}",
            f"plans {_joined(study.plans)}",
            f"fold{_s(study.folds)} {_joined(study.folds)}",
            *([f"seed{_s(study.seeds)} {_joined(study.seeds)}"] if study.seeds else []),
            f"{_joined(epochs)} epoch{'' if [*epochs] == [1] else 's'}"
            + (f" of {study.iterations} iterations" if study.iterations else ""),
        ]
        trainings = sum(hours.tasks for hours in self.hours.values())
        return (
            f"{'; '.join(facts)}: {trainings} trainings. Every arm is compared with {self.baseline}, case by case, in "
            f"{len(self.places)} place{_s(self.places)}: data set and configuration, validation or test cases."
        )

    def missing_sentences(self) -> list[str]:
        """Returns a sentence for each comparison that is missing."""
        return [f"{place}: {reason}." for place, reason in self.missing.items()]

    def unlike(self) -> list[str]:
        """Returns what else than the networks differs, each sentence once with its places."""
        return self._by_place({place.name: place.written.unlike for place in self.places})

    def failures(self) -> list[str]:
        """Returns what could not be scored, with its place."""
        return self._by_place({place.name: place.written.failures for place in self.places})

    def _by_place(self, sentences: dict[str, list[str]]) -> list[str]:
        places: dict[str, list[str]] = {}
        for place, own in sentences.items():
            for sentence in own:
                places.setdefault(sentence, []).append(place)
        every = len(self.places)
        return [f"{'everywhere' if len(p) == every > 1 else '; '.join(p)}: {text}" for text, p in places.items()]

    def verdicts(self) -> list[str]:
        """Returns a sentence for each arm with its verdict in each place, in Dice."""
        return [self._verdict(arm.name) for arm in self.arms[1:]]

    def _verdict(self, arm: str) -> str:
        found: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": [], "not comparable": []}
        for place in self.places:
            comparison = place.found(arm, "dice")
            gap = comparison.mean_difference
            verdict = "not comparable" if gap is None else comparison.verdict()
            found[verdict].append(place.name if gap is None else f"{place.name} {signed('dice', gap)}")
        of = f"of {len(self.places)}"
        parts = [f"{verdict} in {len(where)} {of} ({'; '.join(where)})" for verdict, where in found.items() if where]
        return f"{self.short[arm]} against {self.baseline} in Dice: {', '.join(parts)}."

    def mean_rows(self, metric: str) -> tuple[list[list[str]], set[tuple[int, int]]]:
        """Returns the table of means, its head first, and row and column of the best mean in each place."""
        rows = [["arm", *(place.name for place in self.places)]]
        for arm in self.arms:
            spreads = [self.spreads[place.name, arm.name, metric] for place in self.places]
            rows.append([self.short[arm.name], *(_spread(metric, spread) for spread in spreads)])
        best = set()
        for column, place in enumerate(self.places, start=1):
            spreads = [self.spreads[place.name, arm.name, metric] for arm in self.arms]
            # A mean that leaves out infinite distances is no better for it.
            ranks = [(s.infinite, abs(s.mean - METRICS[metric].best)) for s in spreads if s.mean is not None]
            best |= {
                (row, column)
                for row, s in enumerate(spreads, start=1)
                if s.mean is not None and (s.infinite, abs(s.mean - METRICS[metric].best)) == min(ranks)
            }
        return rows, best

    def difference_rows(self, metric: str) -> list[list[str]]:
        """Returns the table of differences from the first arm, as the comparisons found them, its head first."""
        head = ["place", "arm", "cases", "difference", f"{CONFIDENCE:.0%} interval", "p", "p (Holm)"]
        rows = [[*head, "wins / draws / losses", "verdict"]]
        for place in self.places:
            for arm in self.arms[1:]:
                found = place.found(arm.name, metric)
                rows.append([
                    place.name,
                    self.short[arm.name],
                    str(found.units),
                    signed(metric, found.mean_difference),
                    "-" if found.low is None else f"{signed(metric, found.low)} to {signed(metric, found.high)}",
                    p_value(found.p),
                    p_value(found.p_holm),
                    f"{found.wins} / {found.draws} / {found.losses}",
                    found.verdict(),
                ])  # fmt: skip
        return rows

    @property
    def unit(self) -> str:
        """What time is counted in."""
        return "GPU hours" if self.study.device == "cuda" else "hours"

    @property
    def hours_title(self) -> str:
        """The unit as a heading."""
        return self.unit[0].upper() + self.unit[1:]

    def hour_rows(self) -> list[list[str]]:
        """Returns the table of hours, its head first; only a head where there is no log."""
        rows = [["arm", "finished", "in total", "repeated", "relative", *(f"one of {name}" for name in self.data)]]
        first = self.hours[self.arms[0].name]
        for name, hours in self.hours.items() if any(hours.trainings for hours in self.hours.values()) else ():
            ratio = hours.ratio(first)
            rows.append([
                self.short[name],
                f"{hours.finished} of {hours.tasks}",
                _hours(hours.total),
                _hours(hours.repeated),
                "-" if ratio is None else f"x {ratio:.2f}",
                *(_hours(hours.per_training(where)) for where in self.data.values()),
            ])  # fmt: skip
        return rows

    def devices(self) -> str:
        """Returns a sentence on what the arms trained on, nothing where nnU-Net did not say."""
        found = {self.short[name]: " and ".join(hours.devices) for name, hours in self.hours.items()}
        if len(different := {devices for devices in found.values() if devices}) < 2:
            return f"Trained on {different.pop()}." if different else ""
        each = "; ".join(f"{arm} on {devices}" for arm, devices in found.items() if devices)
        return f"Hours on different devices do not compare; trained were {each}."

    def notes(self) -> list[str]:
        """Returns what the numbers mean."""
        runs = [f"{self.short[arm.name]} is {', '.join(run.name for run in arm.runs)}" for arm in self.arms]
        tolerances = {value for place in self.places for value in place.written.tolerances.values()}
        within = f"{next(iter(tolerances)):g} mm" if len(tolerances) == 1 else "the tolerances of each comparison"
        notes = [
            f"{'; '.join(runs)}.",
            "Means are over cases (over the seeds of a case first)"
            + (", and over the labels of a case" if any(place.label == MEAN for place in self.places) else "")
            + ". In brackets: the standard deviation (n - 1) of the means of the seeds / of the folds, '-' where there "
            "is one. Test cases were predicted with all folds together.",
            "Bold is the best mean of a column, whether or not a difference is shown; a mean that leaves out infinite "
            "distances is not best if another leaves out fewer.",
            "HD95: 95th percentile of surface distances. NSD: normalised surface Dice within "
            f"{within}. Both masks empty: undefined and left out. One empty: Dice and NSD 0, HD95 infinite, counted.",
            f"Difference: arm minus {self.baseline}, paired, as each comparison found it; the interval is a bootstrap "
            "of the mean difference, p is Wilcoxon's signed-rank test. Holm's correction is within a place, over all "
            "its arms, labels and metrics; it is not over the places.",
        ]
        if len(self.hour_rows()) > 1:
            times = " times the GPUs that train a network" if self.study.device == "cuda" else ""
            notes.append(
                f"{self.hours_title}: the epochs in nnU-Net's logs{times}; without preprocessing, "
                "final validation, prediction and epochs that were cut off. Repeated: epochs trained again from a "
                "checkpoint after an interruption, part of the total. One of: mean of the finished trainings, nothing "
                f"repeated. Relative: to {self.baseline}, over the data and folds that both have finished."
            )
        return notes

    def versions(self) -> list[str]:
        """Returns the versions that the comparisons were made with; where they differ, with their places."""
        found: dict[str, dict[str, list[str]]] = {}
        for place in self.places:
            for package, version in place.written.versions.items():
                found.setdefault(package, {}).setdefault(version, []).append(place.name)
        return [
            f"{package}: " + (
                next(iter(by)) if len(by) == 1 else
                "differs: " + ", ".join(f"{version} ({'; '.join(places)})" for version, places in by.items())
            )
            for package, by in found.items()
        ]  # fmt: skip

    def to_markdown(self) -> str:
        """Returns the report for a terminal and for readers."""
        parts = [f"# {self.title}", self.introduction()]
        for title, sentences in self.warnings().items():
            parts += [f"**{title}:**", markdown_list(sentences)] if sentences else []
        parts.append(markdown_list(self.verdicts()))
        for metric in SHOWN:
            rows, best = self.mean_rows(metric)
            bold = [
                [f"**{cell}**" if (r, c) in best else cell for c, cell in enumerate(row)] for r, row in enumerate(rows)
            ]
            parts += [f"## {titled(metric)}", markdown_table(bold)]
            parts.append(markdown_table(self.difference_rows(metric), text_columns=2))
        if len(rows := self.hour_rows()) > 1:
            parts += [f"## {self.hours_title}", markdown_table(rows), *filter(None, [self.devices()])]
        return "\n\n".join([*parts, markdown_list(self.notes())]) + "\n"

    def warnings(self) -> dict[str, list[str]]:
        """Returns what a reader has to know before believing the rest, by title."""
        return {
            "Not complete, these comparisons are missing": self.missing_sentences(),
            "Not like for like": self.unlike(),
            "Left out, as it could not be scored": self.failures(),
        }

    def to_json(self) -> str:
        """Returns everything that is shown, for programs."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "title": self.title,
            "study": {"file": self.study.file.name, "text": self.text},
            "missing": self.missing,
            "arms": {arm.name: [run.name for run in arm.runs] for arm in self.arms},
            "places": {
                place.name: {
                    "dataset": place.task.dataset.name,
                    "plans": place.task.plans,
                    "configuration": place.task.configuration,
                    "cases": place.task.cases,
                    "label": place.label,
                    "comparison": f"{place.report}.json",
                    "not_like_for_like": place.written.unlike,
                    "failures": place.written.failures,
                    "verdicts": place.written.verdicts,
                    "means": {
                        arm.name: {metric: asdict(self.spreads[place.name, arm.name, metric]) for metric in SHOWN}
                        for arm in self.arms
                    },
                    "differences": {
                        arm.name: {
                            metric: {**asdict(found := place.found(arm.name, metric)), "verdict": found.verdict()}
                            for metric in SHOWN
                        }
                        for arm in self.arms[1:]
                    },
                    "versions": place.written.versions,
                }
                for place in self.places
            },
            "hours": {
                name: {
                    "trainings": hours.tasks,
                    "finished": hours.finished,
                    "with_a_log": len(hours.trainings),
                    "total": hours.total,
                    "repeated": hours.repeated,
                    "relative": hours.ratio(self.hours[self.arms[0].name]),
                    "per_training": {where: hours.per_training(data) for where, data in self.data.items()},
                    "devices": hours.devices,
                }
                for name, hours in self.hours.items()
            },
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"


def write_report(study: Study, tasks: Sequence[Task]) -> None:
    """Prints the report and writes it into the study's folder.

    Raises:
        SalstmError: if there is nothing to report yet, or it cannot be read or written.
    """
    from nnunetv2_salstm.study.page import to_html

    report = StudyReport.collect(study, tasks)
    output = next(task.output for task in tasks if isinstance(task, Report))
    print(report.to_markdown())
    # The one that tells that the report is there comes last.
    for kind, text in (("html", to_html), ("json", StudyReport.to_json)):
        file = Path(f"{output}.{kind}")
        try:
            with written_whole(file) as unfinished:
                unfinished.write_text(text(report))
        except OSError as error:
            raise SalstmError(f"{file} cannot be written: {error.strerror}") from None
        print(f"Written: {file}")
    if report.missing:
        every = len(report.missing) + len(report.places)
        print(f"Not complete: {len(report.missing)} of {every} comparisons are missing.")


def _spread(metric: str, spread: Spread) -> str:
    if spread.mean is None:
        return "-"
    deviations = [spread.over_seeds, spread.over_folds]
    text = number(metric, spread.mean)
    if any(value is not None for value in deviations):
        text += f" ({' / '.join('-' if value is None else number(metric, value) for value in deviations)})"
    counts = [(spread.infinite, "infinite"), (spread.undefined, "undefined")]
    return ", ".join([text, *(f"{count} {what}" for count, what in counts if count)])


def _hours(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _joined(values: Any) -> str:
    return ", ".join(map(str, values))


def _s(items: Sequence[Any]) -> str:
    return "" if len(items) == 1 else "s"
