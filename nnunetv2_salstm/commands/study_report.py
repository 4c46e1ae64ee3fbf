"""Hands the numbers of a study's comparisons and logs to its report, and writes it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.runs import short_names
from nnunetv2_salstm.evaluation.study import hours_of, hours_table, scores_table, secondary_table, verdicts_table
from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import plain, require_writable, write_text
from nnunetv2_salstm.host.trainer_names import split_seed
from nnunetv2_salstm.reporting.document import to_html, to_terminal
from nnunetv2_salstm.reporting.study import study_document
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
    (report,) = (job for job in jobs if isinstance(job, Report))
    require_writable(report.outputs)
    trainings = [job for job in jobs if isinstance(job, Train)]
    facts, tables = _collect(study, trainings, places, missing)
    document = study_document(facts, tables)
    print(to_terminal(document))
    values = {"title": document.title, **facts, **{name: frame.to_dict("records") for name, frame in tables.items()}}
    # The one that tells that the report is there comes last.
    written = {".html": to_html(document), ".json": json.dumps(plain(values), indent=1, allow_nan=False) + "\n"}
    for file in sorted(report.outputs):
        write_text(file, written[file.suffix])
        print(f"Written: {file}")
    if missing:
        print(f"Not complete: {len(missing)} of {len(comparisons)} comparisons are missing.")


def _read(study: Study, comparisons: Sequence[Compare]) -> tuple[dict[str, tuple[Compare, Comparison]], dict[str, str]]:
    """Returns the comparisons that are finished, by what readers call their place, and why others are not."""
    places, missing = {}, {}
    for job in comparisons:
        name = f"{_data(study, job)} {job.cases}"
        if reason := job.missing():
            # Where the folder is on this machine is of no use to readers.
            missing[name] = reason.replace(f"{nnunet_folder('nnUNet_results')}/", "")
            continue
        try:
            places[name] = job, Comparison.read(job.outputs[0])
        except SalstmError as error:
            again = f"remove it and run the study again: nnUNetv2_salstm study {study.file}"
            raise SalstmError(f"{error}; {again}") from None
    return places, missing


def _data(study: Study, job: Compare | Train) -> str:
    """Returns what readers call the data that networks are trained on; plans are named where they differ."""
    plans = [job.plans] if len(study.plans) > 1 else []
    return " ".join([job.dataset.name.removeprefix("Dataset"), *plans, job.configuration])


def _collect(
    study: Study,
    trainings: Sequence[Train],
    places: Mapping[str, tuple[Compare, Comparison]],
    missing: Mapping[str, str],
) -> tuple[dict[str, Any], "dict[str, pandas.DataFrame]"]:
    """Returns what the report says, and its tables."""
    import pandas

    comparisons = {place: comparison for place, (_, comparison) in places.items()}
    runs = {split_seed(study.runs_of(method)[0])[0]: study.runs_of(method) for method in study.trainers}
    short = short_names(list(runs))
    took = pandas.DataFrame([
        {
            "method": split_seed(job.trainer)[0], "data": _data(study, job), "fold": job.fold,
            **(hours_of(job.folder, job.resources.gpus) or dict.fromkeys(("finished", "hours", "repeated", "device"))),
        }
        for job in trainings
    ])  # fmt: skip
    facts: dict[str, Any] = {
        "format": FORMAT,
        "study": {"name": study.name, "file": study.file.name, "text": study.file.read_text(encoding="utf-8-sig")},
        "design": {
            "methods": [len(study.trainers)],
            "data sets": study.datasets,
            "configurations": study.configurations,
            "plans": study.plans,
            "folds": study.folds,
            "seeds": study.seeds or ["none"],
            "epochs": list(dict.fromkeys(study.epochs_of(method) for method in study.trainers)),
            **({"iterations an epoch": [study.iterations]} if study.iterations else {}),
        },
        "missing": dict(missing),
        "methods": {
            name: {
                "label": method.label or short[name],
                "runs": own,
                "trainings": int((took["method"] == name).sum()),
                "devices": sorted({*took.loc[took["method"] == name, "device"].dropna()} - {""}),
            }
            for method, (name, own) in zip(study.trainers, runs.items(), strict=True)
        },
        "places": {
            place: {
                "comparison": f"comparisons/{job.outputs[0].name}",
                "cases": comparison.results.cases,
                "labels": comparison.results.labels,
                "confounders": comparison.confounders,
                "failures": comparison.failures,
                "versions": comparison.versions,
            }
            for place, (job, comparison) in places.items()
        },
        "unit": "GPU hours" if study.device == "cuda" else "hours",
        "notes": next(iter(comparisons.values())).notes()[len(runs) :],
    }
    return facts, {
        "scores": scores_table(comparisons),
        "verdicts": verdicts_table(comparisons),
        "secondary": secondary_table(comparisons),
        "hours": hours_table(took, list(runs)),
    }
