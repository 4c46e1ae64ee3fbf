"""Which jobs a study has, which of them come before which, and which are not finished."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.dataset import Dataset
from nnunetv2_salstm.study.jobs import (
    DEFAULT_PLANS,
    Compare,
    Job,
    Predict,
    Preprocess,
    Report,
    Train,
    model_name,
    study_folder,
    unless_default,
)
from nnunetv2_salstm.study.schema import Study


def jobs_of(study: Study) -> list[Job]:
    """Returns the jobs of a study, each behind those that must be finished before it.

    Raises:
        SalstmError: if a data set or nnU-Net's folders are not there.
    """
    jobs: list[Job] = []
    datasets = [Dataset.find(name) for name in study.datasets]
    for name, dataset in zip(study.datasets, datasets, strict=True):
        if datasets.count(dataset) > 1:
            raise SalstmError(f"datasets must have each data set once; {name} is {dataset.name}, which is there twice")
        # One after the other, as plans of a data set share its fingerprint.
        before: tuple[str, ...] = ()
        for plans in study.plans:
            preprocess = Preprocess(f"preprocess__{dataset.name}__{plans}", study, dataset, before, plans)
            before = (preprocess.name,)
            jobs.append(preprocess)
            for configuration in study.configurations:
                jobs += _jobs_of_models(study, dataset, plans, configuration, before)
    if comparisons := [job for job in jobs if isinstance(job, Compare)]:
        # A job of Slurm starts in another folder.
        words = ["nnUNetv2_salstm", "study", str(study.file.resolve()), "--report"]
        inputs, after = [job.outputs[0] for job in comparisons], _names(comparisons)
        outputs = _page(study, "report")
        jobs.append(Report(f"report__{study.name}", study, comparisons[0].dataset, after, words, inputs, outputs))
    return jobs


def _jobs_of_models(
    study: Study, dataset: Dataset, plans: str, configuration: str, preprocess: tuple[str, ...]
) -> list[Job]:
    """Returns trainings, predictions and comparisons on one data set with one configuration."""
    data = (plans, configuration)
    trainings: list[Train] = []
    predictions: list[Predict] = []
    # Folders with predictions, as compare takes them.
    folders = []
    for run in (run for method in study.trainers for run in study.runs_of(method)):
        model = model_name(run, *data)
        name = f"train__{dataset.name}__{model}__fold_"
        own = [Train(f"{name}{fold}", study, dataset, preprocess, run, *data, fold) for fold in study.folds]
        output = study_folder(study.name) / "predictions" / dataset.name / model
        trainings += own
        predictions += _predictions(own, output)
        folders.append(f"{run}={output}")
    jobs: list[Job] = [*trainings, *predictions]
    if len(study.trainers) == 1:
        return jobs

    def compare(cases: str, of: Sequence[Job], words: list[str], inputs: list[Path]) -> Compare:
        name = "__".join([dataset.name, *data, *(["test"] if cases == "test" else [])])
        outputs = _page(study, f"comparisons/{name}")
        written = [word for file in outputs for word in (f"--{file.suffix[1:]}", str(file))]
        words = ["nnUNetv2_salstm", "compare", *words, *written]
        after = _names(of)
        return Compare(f"compare__{study.name}__{name}", study, dataset, after, words, inputs, outputs, *data, cases)

    words = ["-d", dataset.number, "-c", configuration, "-tr", *dict.fromkeys(job.trainer for job in trainings)]
    words += ["-f", *map(str, study.folds), *unless_default("-p", plans, DEFAULT_PLANS)]
    jobs.append(compare("validation", trainings, words, [job.summary for job in trainings]))
    raw = dataset.raw
    if predictions and (raw / "labelsTs").is_dir():
        words = ["--reference", str(raw / "labelsTs"), "-i", *folders]
        words += ["--dataset-json", str(raw / "dataset.json"), "--images", str(raw / "imagesTs")]
        jobs.append(compare("test", predictions, words, [file for job in predictions for file in job.outputs]))
    return jobs


def _predictions(trainings: Sequence[Train], output: Path) -> list[Predict]:
    """Returns the jobs that predict the test cases with the folds of a model: one for each part."""
    first = trainings[0]
    study, dataset = first.study, first.dataset
    words = [
        "nnUNetv2_predict", "-i", str(dataset.raw / "imagesTs"), "-o", str(output), "-d", dataset.number, "-c",
        first.configuration, "-f", *map(str, study.folds), "-tr", first.trainer,
        *unless_default("-p", first.plans, DEFAULT_PLANS), *unless_default("-device", study.device, "cuda"),
    ]  # fmt: skip
    networks = [training.checkpoint for training in trainings]
    jobs = []
    parts = min(study.num_parts, len(dataset.test_cases)) if study.test else 0
    for part in range(parts):
        name = f"predict__{study.name}__{dataset.name}__{output.name}__part_{part}_of_{parts}"
        which = ["-num_parts", str(parts), "-part_id", str(part)] if parts > 1 else []
        files = [output / f"{case}{dataset.ending}" for case in dataset.test_cases[part::parts]]
        jobs.append(Predict(name, study, dataset, _names(trainings), [*words, *which], networks, files))
    return jobs


def _names(jobs: Sequence[Job]) -> tuple[str, ...]:
    return tuple(job.name for job in jobs)


def _page(study: Study, name: str) -> list[Path]:
    return [study_folder(study.name) / f"{name}.{kind}" for kind in ("json", "html")]


def unfinished(jobs: Sequence[Job]) -> dict[str, str]:
    """Returns why jobs are not finished, by name: their outputs, or those of a job before them, are not there.

    A preprocessing that nothing unfinished needs is not among them: preprocessed data may be removed after training.
    """
    reasons: dict[str, str] = {}
    for job in jobs:
        reason = job.missing()
        # A training stays finished, however new its plans and preprocessed data are.
        before = [] if isinstance(job, Preprocess | Train) else [name for name in job.after if name in reasons]
        if reason is not None or before:
            reasons[job.name] = reason or f"{before[0]} is not finished"
    for job in reversed(jobs):
        users = [other.name for other in jobs if job.name in other.after]
        if isinstance(job, Preprocess) and users and not any(name in reasons for name in users):
            reasons.pop(job.name, None)
    return reasons
