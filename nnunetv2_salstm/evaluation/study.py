"""What the comparisons and logs of a study say together: means with their spreads, verdicts, hours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.runs import Training

# Those that are shown; each comparison's own page has all.
METRICS = ("dice", "hd95", "nsd")


def scores_table(places: Mapping[str, Comparison]) -> pd.DataFrame:
    """Returns a row for each place, method and metric, of the mean over labels where there are several.

    The columns are place, method, metric, mean (over finite cases), over_seeds and over_folds (standard deviations,
    n - 1, of the means of the seeds and of the folds; nan where there is one), infinite and undefined (cases).

    Args:
        places: comparisons by the data, configuration and cases that they are of.
    """
    rows = []
    for place, comparison in places.items():
        results = comparison.results
        label = results.all_labels[0]
        summary = {(row["method"], row["label"], row["metric"]): row for row in results.summary().to_dict("records")}
        for metric in METRICS:
            if metric not in results.metrics:
                continue
            values = results.values(label, metric)
            finite = values[values["value"].abs() < math.inf]
            for method in results.methods:
                own = finite[finite["method"] == method]
                found = summary[method, label, metric]
                spreads = (own.groupby(over)["value"].mean().std() for over in ("seed", "fold"))
                rows.append((place, method, metric, found["mean"], *spreads, found["infinite"], found["undefined"]))
    columns = ["place", "method", "metric", "mean", "over_seeds", "over_folds", "infinite", "undefined"]
    return pd.DataFrame(rows, columns=columns)


def verdicts_table(places: Mapping[str, Comparison]) -> pd.DataFrame:
    """Returns a row for each place and method but the baseline, with both answers in the primary endpoint.

    The columns are place, method, and those of `Comparison.overview`.
    """
    tables = []
    for place, comparison in places.items():
        table = comparison.overview()
        table["method"] = comparison.results.methods
        tables.append(table.iloc[1:].assign(place=place))
    return pd.concat(tables, ignore_index=True)


def secondary_table(places: Mapping[str, Comparison]) -> pd.DataFrame:
    """Returns the other metrics' differences, of networks: place, method, metric, difference, low, high, p_holm."""
    tables = []
    for place, comparison in places.items():
        table = comparison.results.secondary(comparison.endpoint)
        shown = (table["label"] == comparison.results.all_labels[0]) & table["metric"].isin(METRICS)
        tables.append(table[shown].assign(place=place))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Planned:
    """A training of a study.

    Attributes:
        method: its trainer without the seed.
        data: what readers call the data that it trains on.
        fold: of the data.
        folder: where nnU-Net keeps it.
        gpus: on which it trains.
    """

    method: str
    data: str
    fold: int | str
    folder: Path
    gpus: int


def trainings_table(trainings: Iterable[Planned]) -> pd.DataFrame:
    """Returns what trainings with a log took: method, data, fold, finished, hours, repeated, device.

    Hours are those of the epochs, each once, times the GPUs that were at them; repeated are those of epochs that were
    trained again after an interruption.
    """
    rows = []
    for planned in trainings:
        training = Training(planned.folder)
        log, debug = training.log, training.debug
        if not log.epoch_seconds:
            continue
        # One that was trained by hand may have had one GPU, whatever the study says.
        gpus = 1 if debug.get("is_ddp") == "False" else max(1, planned.gpus)
        name = str(debug.get("gpu_name", "None"))
        device = str(debug.get("device", "")) if name == "None" else name
        hours, repeated = (
            math.fsum(seconds) * gpus / 3600 for seconds in (log.epoch_seconds.values(), log.repeated_seconds)
        )
        finished = (planned.folder / "checkpoint_final.pth").is_file()
        rows.append((planned.method, planned.data, planned.fold, finished, hours, repeated, device))
    columns = ["method", "data", "fold", "finished", "hours", "repeated", "device"]
    return pd.DataFrame(rows, columns=columns)


def hours_table(trainings: pd.DataFrame, methods: Sequence[str], data: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each method: finished, total, repeated, relative, and the mean of one training by data.

    Relative are hours to those of the first method, over the data and folds on which both have finished, means over the
    seeds; repeated epochs are left out there, as interruptions are not the method's doing.

    Args:
        trainings: see `trainings_table`.
        methods, data: in their order.
    """
    done = trainings[trainings["finished"].astype(bool)]
    by_fold = done.groupby(["method", "data", "fold"])["hours"].mean()
    rows = []
    for method in methods:
        own = trainings[trainings["method"] == method]
        row = {
            "method": method,
            "finished": int(own["finished"].sum()),
            "total": math.fsum(own["hours"] + own["repeated"]),
            "repeated": math.fsum(own["repeated"]),
            "relative": math.nan,
        }
        folds = {name: by_fold.xs(name) for name in {method, methods[0]} if name in by_fold.index.unique("method")}
        if len(folds) == len({method, methods[0]}):
            shared = folds[method].index.intersection(folds[methods[0]].index)
            if len(shared):
                row["relative"] = folds[method][shared].sum() / folds[methods[0]][shared].sum()
        finished = done[done["method"] == method]
        row |= {name: finished.loc[finished["data"] == name, "hours"].mean() for name in data}
        rows.append(row)
    return pd.DataFrame(rows)
