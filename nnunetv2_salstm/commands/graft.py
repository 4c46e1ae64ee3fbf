"""make a trained stock model an SA-LSTM model that predicts the same

Takes a checkpoint of a stock network, or a results folder with its folds (.../nnUNetTrainer__nnUNetPlans__3d_fullres).
The stock weights stay, the blocks start as the identity. The result is a results folder of the SA-LSTM trainer: predict
with it, continue its training (--c), or start a new training from it (-pretrained_weights).

    graft MODEL_FOLDER -o $nnUNet_results -tr nnUNetTrainerSALSTM_A_1100epochs
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.host.trainer_names import NNUNETS_EPOCHS, TrainerName, name_of_run

if TYPE_CHECKING:
    from nnunetv2_salstm.host.grafted_model import GraftedCheckpoint

DEFAULT_TRAINER = "nnUNetTrainerSALSTM_A"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is grafted, where to, and which blocks."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint (.pth), or a results folder with its folds"
    )
    add_option(
        parser,
        "-o",
        required=True,
        help="folder of results to write to, such as nnUNet_results; data set and model become folders in it",
    )
    add_option(
        parser,
        "-tr",
        default=DEFAULT_TRAINER,
        help="trainer the result belongs to, one of this package, with any suffix; nnUNetTrainer for the plans of "
        "nnUNetv2_salstm plan (%(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='values of the configuration as JSON, e.g. {"steps": 3}, or plans of nnUNetv2_salstm plan',
    )


def run(arguments: argparse.Namespace) -> None:
    """Grafts, and prints what to do with the result.

    Raises:
        SalstmError: if the checkpoint is not a stock network's, or the result cannot be written.
    """
    from nnunetv2_salstm.host.grafted_model import graft_model

    model, has_own_plans, checkpoints = graft_model(
        arguments.checkpoint, arguments.output, arguments.trainer, arguments.config
    )
    for checkpoint in checkpoints:
        print(_described(checkpoint))
    grafted = {checkpoint.path.parts[0] for checkpoint in checkpoints}
    for folder in sorted(arguments.checkpoint.glob("fold_*")):
        if folder.is_dir() and folder.name not in grafted:
            print(f"{folder.name} has no checkpoint and is left out")
    print(f"Written to {model}\n{_next_steps(model, checkpoints[0])}")
    if has_own_plans:
        print(f"Training needs these plans, {model.name.split('__')[1]}, which nnUNetv2_salstm plan writes.")


def _described(checkpoint: "GraftedCheckpoint") -> str:
    epoch = "" if checkpoint.epoch is None else f", epoch {checkpoint.epoch}"
    text = (
        f"{checkpoint.path}: {checkpoint.stock_tensors} tensors of the stock network{epoch}; "
        f"{checkpoint.new_weights / 1e6:.2f} M weights are new"
    )
    if checkpoint.epoch is None:
        return f"{text}; it holds no training that nnU-Net could continue"
    return text if checkpoint.keeps_momentum else f"{text}; it has no state of nnU-Net's SGD: momentum starts empty"


def _next_steps(model: Path, checkpoint: "GraftedCheckpoint") -> str:
    fold = checkpoint.path.parts[0].removeprefix("fold_")
    trainer, plans_name, configuration = model.name.split("__")
    options = f"{model.parent.name} {configuration} {fold} -tr {trainer} -p {plans_name}"
    go_on = {}
    if checkpoint.epoch is not None:
        results, left = model.parents[1], _epochs_left(trainer, checkpoint.epoch)
        go_on = {f"Continue the training, with nnUNet_results={results}{left}:": f"nnUNetv2_train {options} --c"}
    steps = {
        "Predict, as the stock model did:": (
            f"nnUNetv2_predict_from_modelfolder -m {model} -i INPUT -o OUTPUT -f {fold} -chk {checkpoint.path.name}"
        ),
        **go_on,
        "Or start a new training from these weights (nnU-Net draws the segmentation heads anew then):": (
            f"nnUNetv2_train {options} -pretrained_weights {model / checkpoint.path}"
        ),
    }
    return "\n".join(f"{text}\n    {command}" for text, command in steps.items())


def _epochs_left(trainer: str, epoch: int) -> str:
    try:
        epochs = TrainerName.parse(trainer).epochs or NNUNETS_EPOCHS
    except ValueError:
        return ""  # a trainer of nnU-Net's: only it knows its epochs
    if epoch < epochs:
        return f" (epoch {epoch} of {epochs})"
    longer = name_of_run(re.sub(r"_\d+epochs", "", trainer), epoch + 100, None, None)
    return f" (all {epochs} epochs are done: graft with a trainer of more, such as -tr {longer})"
