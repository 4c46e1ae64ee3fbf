"""The identity test: what a trained model loses when its blocks are switched off, without training it again."""

import io
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from tqdm import tqdm

from nnunetv2_salstm.evaluation.metrics import Labels
from nnunetv2_salstm.evaluation.runs import Run
from nnunetv2_salstm.evaluation.scoring import Case as ScoredCase
from nnunetv2_salstm.evaluation.scoring import Scoring
from nnunetv2_salstm.evaluation.statistics import POINT
from nnunetv2_salstm.evaluation.task import Task
from nnunetv2_salstm.host.cases import Case, preprocess
from nnunetv2_salstm.host.errors import BadFile, SalstmError
from nnunetv2_salstm.host.models import Model, make_predictor
from nnunetv2_salstm.nn import switched_off
from nnunetv2_salstm.plans import salstm_of

# What is switched off, besides the stages by their index.
NOTHING, ALL = "nothing", "all"
# Less than a tenth of a point of Dice is no loss to speak of.
NO_LOSS = 0.001


def identity_test(
    model: Model,
    cases: Sequence[Case],
    references: Mapping[str, Path],
    device: str,
    stages: bool = True,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Returns the Dice of a model with its blocks, without all of them, and without those of one stage.

    Predicts as nnU-Net does, without mirroring. Rows have the columns case, off (`NOTHING`, `ALL` or a stage), label
    and dice, which is missing where prediction and reference are both empty.

    Args:
        model: trained, with blocks.
        cases: to predict.
        references: the segmentation of each case, by its name.
        device: to predict on.
        stages: whether the blocks are also switched off stage by stage.
        show_progress: show a bar.

    Raises:
        SalstmError: if a file cannot be read.
    """
    blocks = dict(model.network.salstm)
    off = {NOTHING: [], ALL: list(blocks.values())} | {k: [block] for k, block in blocks.items() if stages}
    reader = model.plans.image_reader_writer_class.__name__
    scoring = Scoring(Labels.of_dataset(model.dataset_json), None, reader)
    predictor = make_predictor(model, device, show_progress=False, side_by_side=False)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(cases) * len(off), desc="blocks off", disable=not show_progress) as bar,
    ):
        for case in cases:
            data, properties = preprocess(model, case)
            file = Path(folder) / f"{case.name}{model.file_ending}"
            for name, of_stages in off.items():
                with switched_off(of_stages):
                    logits = predictor.predict_sliding_window_return_logits(data)
                with redirect_stdout(io.StringIO()):
                    export_prediction_from_logits(
                        logits, properties, model.configuration, model.plans, model.dataset_json,
                        str(file).removesuffix(model.file_ending), num_threads_torch=torch.get_num_threads(),
                    )  # fmt: skip
                try:
                    scores = scoring.read_and_score(ScoredCase(case.name, references[case.name], file, model.trainer))
                except BadFile as error:
                    raise SalstmError(f"case {case.name}: {error}") from None
                rows += [(case.name, name, label, values.dice) for label, values in scores.items()]
                bar.update()
    return pd.DataFrame(rows, columns=["case", "off", "label", "dice"]).astype({"dice": float})


def losses(found: pd.DataFrame) -> pd.DataFrame:
    """Returns what is lost, a row for everything that was switched off: off, dice, change, better, worse, cases.

    Means are over the labels of a case first, and over cases then. `better` and `worse` count the cases that change by
    more than a point of Dice.
    """
    by_case = found.groupby(["off", "case"], sort=False)["dice"].mean().unstack("off", sort=False)
    changes = by_case.sub(by_case[NOTHING], axis=0)
    table = pd.DataFrame(
        {
            "dice": by_case.mean(),
            "change": changes.mean(),
            "better": (changes > POINT).sum(),
            "worse": (changes < -POINT).sum(),
            "cases": by_case.count(),
        }
    )
    return table.rename_axis("off").reset_index()


def tested_cases(task: Task, found: Iterable[ScoredCase]) -> dict[tuple[str, Path], list[ScoredCase]]:
    """Returns the cases of each training that has blocks to be switched off, by its run's name and its folder.

    Raises:
        SalstmError: if there is no such training, or a case has no image.
    """
    folders = {
        (run.name, fold): training.folder
        for run in task.runs
        if salstm_of(run.plans, str(task.configuration)) is not None
        for fold, training in run.folds.items()
    }
    if not folders:
        raise SalstmError("--identity-test: none of the trainers has SA-LSTM blocks that could be switched off")
    tested: dict[tuple[str, Path], list[ScoredCase]] = {}
    for case in found:
        if case.fold is not None and (case.run, case.fold) in folders:
            tested.setdefault((case.run, folders[case.run, case.fold]), []).append(case)
    names = dict.fromkeys(case.name for cases in tested.values() for case in cases)
    if absent := [name for name in names if name not in task.images]:
        raise SalstmError(
            "--identity-test predicts the validation cases, whose images must be in nnUNet_raw; "
            f"{len(absent)} are not, the first: {absent[0]}"
        )
    return tested


def tests_of_methods(
    task: Task, methods: Mapping[str, Sequence[Run]], found: Iterable[ScoredCase], device: str
) -> dict[str, list[dict[str, Any]]]:
    """Returns what each method with blocks loses without them on its validation cases, rows of `losses`.

    Raises:
        SalstmError: if there is no such method, or a model or a case cannot be read.
    """
    method_of = {run.name: method for method, runs in methods.items() for run in runs}
    tables: dict[str, list[pd.DataFrame]] = {}
    for (run, folder), files in tested_cases(task, found).items():
        print(f"{run}, {folder.name}: predicted with and without its blocks", flush=True)
        model = Model.read(folder.parent, folder.name.removeprefix("fold_"), "checkpoint_final.pth")
        cases = [Case(case.name, task.images[case.name]) for case in files]
        references = {case.name: case.reference for case in files}
        tested = identity_test(model, cases, references, device, stages=False, show_progress=sys.stderr.isatty())
        tables.setdefault(method_of[run], []).append(tested)
    return {method: losses(pd.concat(tested)).to_dict("records") for method, tested in tables.items()}


def sentence(table: pd.DataFrame) -> str:
    """Returns what `losses` says of the blocks, in one sentence without the model's name."""
    by = table.set_index("off")
    with_blocks, without, change = by["dice"][NOTHING], by["dice"][ALL], by["change"][ALL]
    count = int(by["cases"][NOTHING])
    better, worse = by["better"][ALL], by["worse"][ALL]
    both_ways = f"; {better} better and {worse} worse by more than a point" if better and worse else ""
    measured = f"(Dice {with_blocks:.3f} with, {without:.3f} without, {count} case{'s' * (count != 1)}{both_ways})"
    if pd.isna(change):
        return "there is nothing to see without its blocks either: no case has a label, or a prediction."
    stages = by["change"].drop([NOTHING, ALL])
    if by["change"].abs().max() < NO_LOSS and not by[["better", "worse"]].to_numpy().any():
        return f"its blocks do nothing for these cases: without them this model loses nothing {measured}."
    moves = f"{'loses' if change < 0 else 'gains'} {_points(change)}"
    if abs(change) < NO_LOSS:
        moves = "neither gains nor loses in the mean"
    text = f"without its blocks this model {moves} {measured}"
    if len(stages) > 1 and stages.min() <= -NO_LOSS:
        text += f", most without those of stage {stages.idxmin()} ({_points(stages.min())})"
    return f"{text}."


def _points(change: float) -> str:
    return f"{abs(100 * change):.1f} points"
