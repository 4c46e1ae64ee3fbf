"""Where a study compares its arms, and what was found there: data set, plans, configuration, validation or test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from nnunetv2_salstm.evaluation.statistics import Comparison
from nnunetv2_salstm.evaluation.written import WrittenReport
from nnunetv2_salstm.host.datasets import nnunet_folder
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.study import Study
from nnunetv2_salstm.study.tasks import Compare


@dataclass(frozen=True)
class Place:
    """Where the arms were compared: on the validation or the test cases of a data set, with one configuration.

    Attributes:
        data: what readers call that on which the networks were trained.
        task: the comparison.
        written: what it found.
    """

    data: str
    task: Compare
    written: WrittenReport

    @property
    def name(self) -> str:
        """What readers call the place."""
        return place_name(self.data, self.task)

    @property
    def label(self) -> str:
        """The label that is shown: the mean where there are several."""
        return self.written.results.all_labels[0]

    @property
    def cases(self) -> int:
        """How many cases each run has predicted."""
        return len({case.case for case in self.written.results.cases})

    @property
    def report(self) -> str:
        """The comparison's report as seen from the study's folder, without .json and .html."""
        return f"{self.task.report.parent.name}/{self.task.report.name}"

    def found(self, arm: str, metric: str) -> Comparison:
        """Returns what the comparison found about an arm."""
        return self.written.comparisons[arm, self.label, metric]


@dataclass(frozen=True)
class Spread:
    """A mean over cases and its standard deviations, None where there is a single seed or fold.

    Attributes:
        mean: over the finite cases, None without one.
        infinite, undefined: cases that the mean leaves out.
        by_run, by_fold: means of each seed and of each fold.
        over_seeds, over_folds: standard deviations (n - 1) of these.
    """

    mean: float | None
    infinite: int
    undefined: int
    by_run: dict[str, float]
    by_fold: dict[str, float]
    over_seeds: float | None
    over_folds: float | None

    @classmethod
    def of(cls, place: Place, arm: str, metric: str) -> "Spread":
        """Returns an arm's mean in a place and how far its seeds and folds scatter."""
        results = place.written.results
        summary = results.summary(arm, place.label, metric)
        runs = results.means_by_run(arm, place.label, metric)
        folds = results.means_by_fold(arm, place.label, metric)
        return cls(summary.mean, summary.infinite, summary.undefined, runs, folds, _deviation(runs), _deviation(folds))


def read_places(study: Study, comparisons: Sequence[Compare]) -> tuple[list[Place], dict[str, str]]:
    """Reads the comparisons that are finished; returns them, and by place why the others are not.

    Raises:
        SalstmError: if the file of one cannot be read.
    """
    names = data_names(comparisons)
    places, missing = [], {}
    for task in comparisons:
        data = names[task.name]
        file = Path(f"{task.report}.json")
        written = _read(file, study) if file.is_file() else None
        reason = task.missing()
        if written is not None and reason is None:
            places.append(Place(data, task, written))
        else:
            # Where the folder is on this machine is of no use to readers.
            missing[place_name(data, task)] = str(reason).replace(f"{nnunet_folder('nnUNet_results')}/", "")
    return places, missing


def data_names(comparisons: Sequence[Compare]) -> dict[str, str]:
    """Returns what readers call that on which the networks were trained, by the comparison's name."""
    plans_differ = len({task.plans for task in comparisons}) > 1
    return {
        task.name: " ".join(
            [task.dataset.name.removeprefix("Dataset"), *([task.plans] if plans_differ else []), task.configuration]
        )
        for task in comparisons
    }


def place_name(data: str, task: Compare) -> str:
    """Returns what readers call the place of a comparison of networks trained on some data."""
    return f"{data} {task.cases}"


def _read(file: Path, study: Study) -> WrittenReport:
    try:
        return WrittenReport.read(file)
    except (OSError, ValueError) as error:
        raise SalstmError(
            f"{file} cannot be read as a comparison ({error}); remove it and run the study again: nnUNetv2_salstm "
            f"matrix {study.file}"
        ) from None


def _deviation(means: dict[str, float]) -> float | None:
    return stdev(means.values()) if len(means) > 1 else None
