"""Hands the numbers of a study's comparisons and logs to its report, and writes it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.runs import short_names
from nnunetv2_salstm.evaluation.study import (
    Planned,
    hours_table,
    scores_table,
    secondary_table,
    trainings_table,
    verdicts_table,
)
from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write, require_writable
from nnunetv2_salstm.host.trainer_names import split_seed
from nnunetv2_salstm.reporting.document import to_html, to_terminal
from nnunetv2_salstm.reporting.study import StudyReport, study_document
from nnunetv2_salstm.study.jobs import Compare, Job, Report, Train
from nnunetv2_salstm.study.schema import Study

if TYPE_CHECKING:
    import pandas

FORMAT = 2


def write_report(study: Study, jobs: Sequence[Job]) -> None:
    """Prints the report of the comparisons that are there, and writes it into the study's folder.

    Raises:
        SalstmError: if there is nothing to report yet, or it cannot be read or written.
    """
    comparisons = [job for job in jobs if isinstance(job, Compare)]
    if not comparisons:
        raise SalstmError(f"{study.file} compares nothing, as it names one trainer; name a second to compare with")
    places, missing = _read(study, comparisons)
    if not places:
        raise SalstmError(
            f"none of the {len(comparisons)} comparisons of {study.name} is there yet; make them with: "
            f"nnUNetv2_salstm study {study.file}"
        )
    (output,) = (job.output for job in jobs if isinstance(job, Report))
    files = {kind: Path(f"{output}.{kind}") for kind in ("html", "json")}
    require_writable(files.values())
    found, values = _collect(study, [job for job in jobs if isinstance(job, Train)], places, missing)
    document = study_document(found)
    print(to_terminal(document))
    # The one that tells that the report is there comes last.
    for kind, text in (("html", to_html(document)), ("json", json.dumps(values, indent=1, allow_nan=False) + "\n")):
        with atomic_write(files[kind]) as unfinished:
            unfinished.write_text(text)
        print(f"Written: {files[kind]}")
    if missing:
        print(f"Not complete: {len(missing)} of {len(comparisons)} comparisons are missing.")


def _read(study: Study, comparisons: Sequence[Compare]) -> tuple[dict[str, tuple[Compare, Comparison]], dict[str, str]]:
    """Returns the comparisons that are finished, by what readers call their place, and why others are not."""
    places, missing = {}, {}
    for job in comparisons:
        name = f"{_data(job, comparisons)} {job.cases}"
        if reason := job.missing():
            # Where the folder is on this machine is of no use to readers.
            missing[name] = reason.replace(f"{nnunet_folder('nnUNet_results')}/", "")
            continue
        try:
            places[name] = job, Comparison.read(Path(f"{job.report}.json"))
        except SalstmError as error:
            again = f"remove it and run the study again: nnUNetv2_salstm study {study.file}"
            raise SalstmError(f"{error}; {again}") from None
    return places, missing


def _data(job: Compare | Train, comparisons: Sequence[Compare]) -> str:
    """Returns what readers call the data that networks are trained on; plans are named where they differ."""
    plans = [job.plans] if len({other.plans for other in comparisons}) > 1 else []
    return " ".join([job.dataset.name.removeprefix("Dataset"), *plans, job.configuration])


def _collect(
    study: Study,
    trainings: Sequence[Train],
    places: Mapping[str, tuple[Compare, Comparison]],
    missing: Mapping[str, str],
) -> tuple[StudyReport, dict[str, Any]]:
    """Returns what is shown, and the same for programs."""
    comparisons = {place: comparison for place, (_, comparison) in places.items()}
    jobs = [job for job, _ in places.values()]
    runs = {split_seed(study.runs_of(method)[0])[0]: study.runs_of(method) for method in study.trainers}
    short = short_names(list(runs))
    labels = {name: method.label or short[name] for name, method in zip(runs, study.trainers, strict=True)}
    planned = [
        Planned(split_seed(job.trainer)[0], _data(job, jobs), job.fold, job.folder, job.resources.gpus)
        for job in trainings
    ]
    took = trainings_table(planned)
    hours = hours_table(took, list(runs), list(dict.fromkeys(training.data for training in planned)))
    counts = {name: sum(training.method == name for training in planned) for name in runs}
    tables = {
        "scores": scores_table(comparisons),
        "verdicts": verdicts_table(comparisons),
        "secondary": secondary_table(comparisons),
        "hours": hours,
    }
    on_gpus = study.device == "cuda"
    unit = "GPU hours" if on_gpus else "hours"
    others = ", ".join(list(labels.values())[1:])
    versions = {place: comparison.versions for place, comparison in comparisons.items()}
    text = study.file.read_text()
    found = StudyReport(
        f"Study {study.name}: {others} against {next(iter(labels.values()))}",
        _introduction(study, len(trainings), comparisons),
        [f"{place}: {reason}." for place, reason in missing.items()],
        _by_place({place: comparison.confounders for place, comparison in comparisons.items()}),
        _by_place({place: comparison.failures for place, comparison in comparisons.items()}),
        list(labels.values()),
        trainings={labels[name]: count for name, count in counts.items()},
        unit=unit,
        devices=_devices(took, labels),
        places=[_link(place, job, comparison) for place, (job, comparison) in places.items()],
        notes=[*_notes(labels, runs, unit, on_gpus), *next(iter(comparisons.values())).notes()[len(runs) :]],
        file=study.file.name,
        text=text,
        versions=_versions(versions),
        **{name: _named(frame, labels) for name, frame in tables.items()},
    )
    values = {
        "format": FORMAT,
        "title": found.title,
        "study": {"file": study.file.name, "text": text},
        "missing": dict(missing),
        "methods": {
            name: {"label": labels[name], "runs": own, "trainings": counts[name]} for name, own in runs.items()
        },
        "places": {
            place: {
                "comparison": f"comparisons/{job.report.name}.json",
                "confounders": comparison.confounders,
                "failures": comparison.failures,
                "versions": comparison.versions,
            }
            for place, (job, comparison) in places.items()
        },
        **{name: _records(frame) for name, frame in tables.items()},
    }
    return found, values


def _introduction(study: Study, trainings: int, comparisons: Mapping[str, Comparison]) -> str:
    epochs = dict.fromkeys(study.epochs_of(method) for method in study.trainers)
    facts = {
        "methods": [len(study.trainers)],
        "data sets": study.datasets,
        "configurations": study.configurations,
        "plans": study.plans,
        "folds": study.folds,
        "seeds": study.seeds or ["none"],
        "epochs": epochs,
        **({"iterations an epoch": [study.iterations]} if study.iterations else {}),
    }
    listed = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in facts.items())
    return (
        f"{listed}; {trainings} trainings. Every method is compared with the first one in {len(comparisons)} places: "
        "data and configuration, validation or test cases."
    )


def _by_place(sentences: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns each sentence once, with its places."""
    places: dict[str, list[str]] = {}
    for place, own in sentences.items():
        for sentence in own:
            places.setdefault(sentence, []).append(place)
    every = len(sentences)
    return [f"{'everywhere' if len(p) == every > 1 else '; '.join(p)}: {text}" for text, p in places.items()]


def _devices(took: "pandas.DataFrame", labels: Mapping[str, str]) -> str:
    found = {labels[str(name)]: sorted({*own["device"]} - {""}) for name, own in took.groupby("method", sort=False)}
    named = {name: " and ".join(devices) for name, devices in found.items() if devices}
    if len(set(named.values())) < 2:
        return "".join(f"Trained on {devices}." for devices in set(named.values()))
    each = "; ".join(f"{name} on {devices}" for name, devices in named.items())
    return f"Hours on different devices do not compare; trained were {each}."


def _link(place: str, job: Compare, comparison: Comparison) -> str:
    results = comparison.results
    about = f"{results.cases} cases; labels {', '.join(results.labels)}"
    return f"[{place}]({quote(f'comparisons/{job.report.name}.html')}): {about}"


def _notes(labels: Mapping[str, str], runs: Mapping[str, Sequence[str]], unit: str, on_gpus: bool) -> list[str]:
    times = " times the GPUs that train a network" if on_gpus else ""
    return [
        *(f"{label} is {', '.join(runs[name])}." for name, label in labels.items()),
        "Each verdict is that of its comparison. Holm's correction is within a place; it is not over the places: the "
        "more places, the likelier one of them shows a difference by chance.",
        f"{unit[0].upper()}{unit[1:]}: the epochs in nnU-Net's logs{times}; without preprocessing, final validation, "
        "prediction and epochs that were cut off. Repeated: epochs trained again from a checkpoint after an "
        "interruption, part of the total. One of: mean of the finished trainings, nothing repeated. Relative: to the "
        "first method, over the data and folds that both have finished.",
    ]


def _versions(versions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns the version of each package; where they differ, with their places."""
    found: dict[str, dict[str, list[str]]] = {}
    for place, own in versions.items():
        for package, version in own.items():
            found.setdefault(package, {}).setdefault(version, []).append(place)
    return [
        f"{package}: {next(iter(by))}" if len(by) == 1 else
        f"{package} differs: " + ", ".join(f"{version} ({'; '.join(places)})" for version, places in by.items())
        for package, by in found.items()
    ]  # fmt: skip


def _named(frame: "pandas.DataFrame", labels: Mapping[str, str]) -> "pandas.DataFrame":
    return frame.assign(method=frame["method"].map(lambda name: labels.get(name, name)))


def _records(frame: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Returns the rows as JSON can hold them: nan is null, infinite is "inf"."""
    return [
        {
            str(name): None if value != value else str(value) if value in (float("inf"), -float("inf")) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
