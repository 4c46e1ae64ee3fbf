"""write a model card: data, network, scores with intervals, cost, versions; the rest is marked for its author

Reads what nnU-Net leaves behind with a training, also a stock one, and writes Markdown with the front matter that model
hubs read. Intended use, limits and licence are the author's to write: search for TODO.

    card nnUNet_results/Dataset027_ACDC/nnUNetTrainerSALSTM_A__nnUNetPlans__3d_fullres -o README.md
    card MODEL_FOLDER --compare compare.json --license cc-by-4.0 -o README.md
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.host.datasets import read_dataset_json
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json, require_writable, write_text

if TYPE_CHECKING:
    import pandas

    from nnunetv2_salstm.evaluation.runs import Training

FINAL = "checkpoint_final.pth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, what was found about it, and where the card goes."""
    folder = "nnU-Net's folder of a trained model, TRAINER__PLANS__CONFIGURATION"
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help=folder)
    parser.add_argument(
        "--compare", type=Path, metavar="JSON", help="of nnUNetv2_salstm compare: how it did against other methods"
    )
    parser.add_argument("--license", metavar="ID", help="as model hubs name it, e.g. cc-by-4.0 (default: a TODO)")
    add_option(parser, "-o", metavar="FILE", required=True, help="the card, e.g. README.md")
    add_option(parser, "--overwrite", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> None:
    """Writes the card and says what is left to its author.

    Raises:
        SalstmError: for a folder that is no trained model, a comparison that is not about it, or a file that is there
            or cannot be written.
    """
    from nnunetv2_salstm.host.checkpoints import count_parameters, read_checkpoint, trained_as
    from nnunetv2_salstm.reporting.card import Card, to_card

    folder, output = arguments.model, arguments.output
    if output.exists() and not arguments.overwrite:
        raise SalstmError(f"-o {output} is there already; choose another file, or add --overwrite")
    require_writable([output])
    plans = read_json(folder / "plans.json", "plans of a trained model")
    if absent := [key for key in ("dataset_name", "plans_name", "configurations") if key not in plans]:
        raise SalstmError(f"{folder / 'plans.json'} is no plans file of nnU-Net: it lacks {', '.join(absent)}")
    dataset = read_dataset_json(folder / "dataset.json", ("labels", "channel_names", "file_ending"))
    trainings = _trainings(folder)
    file = next(iter(trainings.values())).folder / FINAL
    checkpoint = read_checkpoint(file)
    trainer, configuration = trained_as(file, checkpoint)
    name = f"{plans['dataset_name']}/{trainer}__{plans['plans_name']}__{configuration}"
    card = Card(
        dataset=str(plans["dataset_name"]),
        dataset_json=dataset,
        trainer=trainer,
        plans_name=str(plans["plans_name"]),
        configuration=configuration,
        plan=_plan(folder, plans, configuration),
        parameters=count_parameters(checkpoint["network_weights"]),
        folds=list(map(str, trainings)),
        scores=_scores(trainings, dataset),
        trainings=_table(folder, trainings),
        comparison=[] if arguments.compare is None else _comparison(arguments.compare, trainer, name),
        license=arguments.license,
    )
    text = to_card(card)
    write_text(output, text)
    print(f"Written: {output}; {text.count('TODO')} places are left to you, marked TODO")


def _trainings(folder: Path) -> "dict[int | str, Training]":
    """Returns the finished folds."""
    from nnunetv2_salstm.evaluation.runs import Training

    names = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*") if (path / FINAL).is_file())
    if not names:
        raise SalstmError(
            f"{folder} has no fold with {FINAL}; give nnU-Net's folder of a finished training, "
            "TRAINER__PLANS__CONFIGURATION"
        )
    return {name: Training(folder / f"fold_{name}") for name in names}


def _plan(folder: Path, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Returns a configuration of plans, with what it inherits."""
    from nnunetv2_salstm.plans import resolve

    there = plans["configurations"]
    if not isinstance(there, dict) or configuration not in there:
        raise SalstmError(
            f"{folder / 'plans.json'} must have the configuration of {FINAL}, {configuration}; it has "
            f"{', '.join(there or ())}. Take the plans.json that was written with it"
        )
    try:
        return resolve(plans, configuration)
    except ValueError as error:
        raise SalstmError(f"{folder / 'plans.json'}: {error}") from None


def _scores(trainings: "dict[int | str, Training]", dataset: dict[str, Any]) -> "pandas.DataFrame":
    """Returns the Dice of nnU-Net's validation: label, mean, low, high, cases; each case counts once."""
    import pandas

    from nnunetv2_salstm.evaluation.metrics import Labels
    from nnunetv2_salstm.evaluation.statistics import estimate

    rows: list[dict[str, Any]] = []
    labels = Labels.of_dataset(dataset).values
    for training in trainings.values():
        file = training.validation / "summary.json"
        if not file.is_file():
            continue
        try:
            for case in read_json(file, "scores")["metric_per_case"]:
                found_by = case["metrics"]
                # As nnU-Net writes them: a number, or the numbers of a region.
                rows.append({
                    name: found_by[str(region) if str(region) in found_by else str(region[0])]["Dice"]
                    for name, region in labels.items()
                })  # fmt: skip
        except (KeyError, TypeError) as error:
            raise SalstmError(
                f"{file} does not have the scores of the labels in dataset.json: it lacks {error}; validate again with "
                "nnUNetv2_train ... --val"
            ) from None
    values = pandas.DataFrame(rows, columns=list(labels), dtype=float)
    if len(labels) > 1:
        values.insert(0, "mean", values.mean(axis=1))
    found = []
    for label, column in values.items():
        known = column.dropna().to_numpy()
        if len(known):
            interval = estimate(known, 0 * known)
            # Student's does not know that Dice ends at 0 and 1.
            low, high = (end if end is None else min(max(end, 0.0), 1.0) for end in (interval.low, interval.high))
            found.append({"label": label, "mean": interval.difference, "low": low, "high": high, "cases": len(known)})
    return pandas.DataFrame(found, columns=["label", "mean", "low", "high", "cases"])


def _table(folder: Path, trainings: "dict[int | str, Training]") -> "pandas.DataFrame":
    """Returns a row for each fold: what it was trained with and how long."""
    import pandas

    from nnunetv2_salstm.evaluation.confounders import runs_table
    from nnunetv2_salstm.evaluation.runs import Run

    run = Run(folder.name.partition("__")[0], {}, dict(trainings))
    table = pandas.DataFrame(runs_table([run])).drop(columns="trainer")
    seconds = [sum(t.log.epoch_seconds.values()) + sum(t.log.repeated_seconds) for t in trainings.values()]
    hours = (value / 3600 for value in seconds)
    return table.assign(hours=["" if not h else f"{h:.0f}" if h >= 10 else f"{h:.2g}" for h in hours])


def _comparison(file: Path, trainer: str, model: str) -> list[str]:
    """Returns what a comparison says, if the model is in it."""
    from nnunetv2_salstm.evaluation.comparison import Comparison

    comparison = Comparison.read(file)
    runs = [name for names in comparison.runs.values() for name in names]
    if trainer not in runs:
        raise SalstmError(f"--compare {file} is about {', '.join(runs)}, not about this model's {trainer}")
    # Of predictions in folders it is not known what predicted them.
    for place in comparison.inputs["runs"].get(trainer, {}).values():
        of = "/".join(Path(place).parts[-4:-2])
        if place.startswith("nnUNet_results") and of != model:
            raise SalstmError(f"--compare {file} is about {of}, not about this model, {model}")
    return [*comparison.verdicts.sentences, *comparison.sentences_on_blocks(), *comparison.confounders]
