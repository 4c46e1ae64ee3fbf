"""Grafting from folder to folder: the checkpoints of a stock model become those of an SA-LSTM model."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunetv2_salstm.host.checkpoints import read_checkpoint, write_failed
from nnunetv2_salstm.host.config_file import read_config
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write
from nnunetv2_salstm.host.grafting import Graft, add_blocks
from nnunetv2_salstm.host.trainer_lookup import find_trainer
from nnunetv2_salstm.host.trainer_names import NAME_RULE, TrainerName

FINAL = "checkpoint_final.pth"
# What nnU-Net continues a training with, besides weights and optimiser.
CONTINUED = {"current_epoch", "logging", "_best_ema", "grad_scaler_state"}
NAMES = (FINAL, "checkpoint_best.pth", "checkpoint_latest.pth")


@dataclass(frozen=True)
class GraftedCheckpoint:
    """A checkpoint with blocks.

    Attributes:
        path: in the model's folder, e.g. fold_0/checkpoint_final.pth.
        epoch: that it was trained to; None if it lacks what nnU-Net continues a training with.
        stock_tensors: how many tensors it has of the stock network.
        new_weights: how many weights the blocks have.
        keeps_momentum: the optimiser's state was nnU-Net's and went with the network.
    """

    path: Path
    epoch: int | None
    stock_tensors: int
    new_weights: int
    keeps_momentum: bool


def graft_model(
    source: Path, output: Path, trainer: str, config: Path | None
) -> tuple[Path, bool, list[GraftedCheckpoint]]:
    """Writes the results folder of an SA-LSTM trainer that predicts what a stock model does.

    Returns the folder, whether training needs plans that the stock training did not have, and the checkpoints, those of
    the first fold first.

    Args:
        source: a checkpoint or results folder of the stock model.
        output: folder of results; data set and model become folders in it.
        trainer: that the result belongs to.
        config: file with values of the blocks' configuration.

    Raises:
        SalstmError: if there is nothing to graft on, or the result cannot be written.
    """
    try:
        TrainerName.parse(trainer)
    except ValueError:
        if find_trainer(trainer) is None:
            raise SalstmError(f"-tr must be {NAME_RULE}; or one that nnU-Net finds; got {trainer!r}") from None
    files = find_checkpoints(source.absolute())
    first = _read(files[0])["init_args"]
    configuration = first["configuration"]
    graft = Graft(trainer, read_config(config, configuration) if config else {})
    plans = graft.plans(first["plans"], configuration)
    model = output / plans["dataset_name"] / f"{trainer}__{plans['plans_name']}__{configuration}"
    if model.exists():
        raise SalstmError(f"-o: {model} is there already; remove it, or give another folder")
    try:
        with atomic_write(model) as folder:
            folder.mkdir()
            (folder / "plans.json").write_text(json.dumps(plans, indent=4))
            (folder / "dataset.json").write_text(json.dumps(first["dataset_json"], indent=4))
            for fingerprint in files[0].parents[1].glob("dataset_fingerprint.json"):
                shutil.copy(fingerprint, folder)
            grafted = [_graft_file(file, graft, plans, folder) for file in files]
    except (OSError, RuntimeError) as error:
        if not write_failed(error):
            raise
        raise SalstmError(f"cannot write to -o {output}: {getattr(error, 'strerror', None) or error}") from None
    return model, plans["plans_name"] != first["plans"]["plans_name"], grafted


def find_checkpoints(source: Path) -> list[Path]:
    """Returns a checkpoint itself, or those in a results folder: of each fold the final one first.

    Raises:
        SalstmError: if there are none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SalstmError(f"CHECKPOINT must be a file or a results folder, there is nothing at {source}")
    found = [file for pattern in ("", "fold_*/") for file in source.glob(f"{pattern}checkpoint_*.pth")]
    files = sorted(
        (file for file in found if file.name in NAMES), key=lambda file: (file.parent, NAMES.index(file.name))
    )
    if not files:
        raise SalstmError(
            f"CHECKPOINT {source} has no checkpoints; a results folder such as nnUNetTrainer__nnUNetPlans__3d_fullres "
            f"has them in fold_0/{FINAL} and its like"
        )
    return files


def _read(file: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(file)
    missing = [name for name in ("init_args", "trainer_name") if name not in checkpoint]
    if missing:
        raise SalstmError(f"{file} is not a checkpoint that nnU-Net's training wrote: it has no {', '.join(missing)}")
    return checkpoint


def _graft_file(file: Path, graft: Graft, plans: dict[str, Any], folder: Path) -> GraftedCheckpoint:
    """Writes one checkpoint below the folder."""
    checkpoint = _read(file)
    try:
        extended = add_blocks(checkpoint, graft)
    except SalstmError as error:
        raise SalstmError(f"{file}: {error}") from None
    theirs = extended["init_args"]["plans"]
    # Whether a training was continued is the only thing in which folds may differ.
    if {**theirs, "continue_training": None} != {**plans, "continue_training": None}:
        raise SalstmError(f"{file} was trained with other plans than the folds before it; graft it on its own")
    path = Path(f"fold_{extended['init_args']['fold']}") / (file.name if file.name in NAMES else FINAL)
    if (folder / path).exists():
        raise SalstmError(f"{file} is of {path}, which another checkpoint is of too; graft it on its own")
    (folder / path).parent.mkdir(exist_ok=True)
    torch.save(extended, folder / path)
    weights, stock = extended["network_weights"], checkpoint["network_weights"]
    before = checkpoint.get("optimizer_state")
    return GraftedCheckpoint(
        path,
        extended["current_epoch"] if extended.keys() >= CONTINUED else None,
        len(stock),
        sum(value.numel() for key, value in weights.items() if key not in stock),
        bool(extended["optimizer_state"]["state"]) or (before is not None and not before["state"]),
    )
