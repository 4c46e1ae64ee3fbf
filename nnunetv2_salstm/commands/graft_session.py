"""Grafting from file to file."""

import argparse
import io
import json
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from nnunetv2_salstm.commands.graft import DEFAULT_TRAINER
from nnunetv2_salstm.host.checkpoints import UNREADABLE, read_checkpoint
from nnunetv2_salstm.host.config_file import read_config
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.host.grafting import Graft, add_blocks
from nnunetv2_salstm.host.trainer_names import NAME_RULE, TrainerName

# Of nnUNetTrainer, and so of ours without a number of epochs in their names.
NNUNETS_EPOCHS = 1000
FINAL = "checkpoint_final.pth"
NAMES = (FINAL, "checkpoint_best.pth", "checkpoint_latest.pth")


def run_graft(arguments: argparse.Namespace) -> None:
    """Writes the results folder that the arguments ask for.

    Raises:
        SalstmError: if there is nothing to graft on, or the result cannot be written.
    """
    _require_trainer(arguments.trainer)
    files = _find_checkpoints(arguments.checkpoint)
    first = _read(files[0])["init_args"]
    values = read_config(arguments.config, first["configuration"]) if arguments.config else {}
    graft = Graft(arguments.trainer, values)
    plans = graft.plans(first["plans"], first["configuration"])
    name = f"{graft.trainer}__{plans['plans_name']}__{first['configuration']}"
    model = arguments.out / plans["dataset_name"] / name
    if model.exists():
        raise SalstmError(f"-o: {model} is there already; remove it, or give another folder")
    try:
        with written_whole(model) as folder:
            folder.mkdir()
            (folder / "plans.json").write_text(json.dumps(plans, indent=4))
            (folder / "dataset.json").write_text(json.dumps(first["dataset_json"], indent=4))
            for fingerprint in files[0].parents[1].glob("dataset_fingerprint.json"):
                shutil.copy(fingerprint, folder)
            saved = [_graft_file(file, graft, plans, folder) for file in files]
    except OSError as error:
        raise SalstmError(f"cannot write to -o {arguments.out}: {error.strerror or error}") from None
    print(f"Written to {model}\n{_next_steps(graft, model, plans, first['configuration'], *saved[0])}")
    if plans["plans_name"] != first["plans"]["plans_name"]:
        print(f"Training needs these plans, {plans['plans_name']}, which nnUNetv2_salstm plan writes.")


def _require_trainer(name: str) -> None:
    try:
        TrainerName.parse(name)
        return
    except ValueError:
        pass  # one of nnU-Net's then
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    except ImportError:  # nnU-Net before 2.8
        import nnunetv2
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        def find(name: str) -> Any:
            package = "nnunetv2.training.nnUNetTrainer"
            return recursive_find_python_class(f"{nnunetv2.__path__[0]}/training/nnUNetTrainer", name, package)

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # where it looks is nobody's business here
            found = find(name)
    except RuntimeError:
        found = None
    if found is None:
        raise SalstmError(f"--trainer must be {NAME_RULE}; or one that nnU-Net finds; got {name!r}")


def _find_checkpoints(source: Path) -> list[Path]:
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
    for folder in sorted(source.glob("fold_*")):
        if folder.is_dir() and not any(file.parent == folder for file in files):
            print(f"{folder.name} has no checkpoint and is left out")
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        checkpoint = read_checkpoint(file)
        missing = [
            name for name in ("init_args", "trainer_name", "optimizer_state", "logging") if name not in checkpoint
        ]
    except OSError as error:
        raise SalstmError(f"cannot read {file}: {error.strerror}") from None
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise SalstmError(
            f"{file} is damaged, cut short or not a checkpoint of nnU-Net ({type(error).__name__}: {reason})"
        ) from None
    if missing:
        raise SalstmError(f"{file} is not a checkpoint that nnU-Net's training wrote: it has no {', '.join(missing)}")
    return checkpoint


def _graft_file(file: Path, graft: Graft, plans: Mapping[str, Any], folder: Path) -> tuple[Path, int]:
    """Writes one checkpoint below the folder; returns its path in there and its epoch."""
    try:
        checkpoint = _read(file)
        extended = add_blocks(checkpoint, graft)
    except SalstmError as error:
        raise SalstmError(f"{file}: {error}") from None
    theirs = extended["init_args"]["plans"]
    # Whether a training was continued is the only thing in which folds may differ.
    if {**theirs, "continue_training": None} != {**plans, "continue_training": None}:
        raise SalstmError(f"{file} was trained with other plans than the folds before it; graft it on its own")
    path = Path(f"fold_{extended['init_args']['fold']}") / (file.name if file.name in NAMES else FINAL)
    (folder / path).parent.mkdir(exist_ok=True)
    torch.save(extended, folder / path)
    epoch = extended["current_epoch"]
    weights, stock = extended["network_weights"], checkpoint["network_weights"]
    new = sum(value.numel() for key, value in weights.items() if key not in stock)
    text = f"{path}: {len(stock)} tensors of the stock network, epoch {epoch}; {new / 1e6:.2f} M weights are new"
    if checkpoint["optimizer_state"]["state"] and not extended["optimizer_state"]["state"]:
        text += "; its optimiser was not nnU-Net's SGD, so that momentum starts empty"
    print(text)
    return path, epoch


def _next_steps(graft: Graft, model: Path, plans: Mapping[str, Any], configuration: str, path: Path, epoch: int) -> str:
    fold = path.parent.name.removeprefix("fold_")
    options = f"{plans['dataset_name']} {configuration} {fold} -tr {graft.trainer} -p {plans['plans_name']}"
    steps = {
        "Predict, as the stock model did:": (
            f"nnUNetv2_predict_from_modelfolder -m {model} -i INPUT -o OUTPUT -f {fold} -chk {path.name}"
        ),
        f"Continue the training, with nnUNet_results={model.parents[1]}{_epochs_left(graft.trainer, epoch)}:": (
            f"nnUNetv2_train {options} --c"
        ),
        "Or start a new training from these weights (nnU-Net draws the segmentation heads anew then):": (
            f"nnUNetv2_train {options} -pretrained_weights {model / path}"
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
    longer = f"{DEFAULT_TRAINER}_{epoch + 100}epochs"
    return f" (all {epochs} epochs are done: graft with a trainer of more, such as --trainer {longer})"
