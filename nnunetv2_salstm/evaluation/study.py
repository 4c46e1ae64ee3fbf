"""What the comparisons and logs of a study say together: means with their spreads, verdicts, hours."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.results import finite
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
            known = finite(values)
            for method in results.methods:
                own = known[known["method"] == method]
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


def hours_of(folder: Path, gpus: int) -> dict[str, Any] | None:
    """Returns what a training took: finished, hours, repeated and device; None for one without a log.

    Hours are those of the epochs, each once, times the GPUs that were at them; repeated are those of epochs that were
    trained again after an interruption.

    Args:
        folder: where nnU-Net keeps the training.
        gpus: of the study; one that was trained by hand may have had one only.
    """
    training = Training(folder)
    log, debug = training.log, training.debug
    if not log.epoch_seconds:
        return None
    gpus = 1 if debug.get("is_ddp") == "False" else max(1, gpus)
    name = str(debug.get("gpu_name", "None"))
    return {
        "finished": (folder / "checkpoint_final.pth").is_file(),
        "hours": math.fsum(log.epoch_seconds.values()) * gpus / 3600,
        "repeated": math.fsum(log.repeated_seconds) * gpus / 3600,
        "device": str(debug.get("device", "")) if name == "None" else name,
    }


def hours_table(trainings: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each method: finished, total, repeated, relative, and the mean of one training by data.

    Relative are hours to those of the first method, over the data and folds on which both have finished, means over the
    seeds; repeated epochs are left out there, as interruptions are not the method's doing.

    Args:
        trainings: a row each, with method, data, fold, and the columns of `hours_of`, missing where it is None.
        methods: in their order.
    """
    done = trainings[trainings["finished"].eq(True)]
    by_fold = done.pivot_table("hours", ["data", "fold"], "method").reindex(columns=list(methods))
    by_data = done.pivot_table("hours", "method", "data")
    rows = []
    for method in methods:
        own = trainings[trainings["method"] == method].dropna(subset="hours")
        both = by_fold[[methods[0], method]].dropna()
        row = {
            "method": method,
            "finished": int(own["finished"].sum()),
            "total": math.fsum(own["hours"] + own["repeated"]),
            "repeated": math.fsum(own["repeated"]),
            "relative": both.iloc[:, 1].sum() / both.iloc[:, 0].sum() if len(both) else math.nan,
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.join(by_data.reindex(columns=trainings["data"].unique()), on="method")
