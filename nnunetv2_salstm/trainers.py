"""The trainers that `nnUNetv2_train -tr` finds: a name says the modules, the length and the seed of a run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

import nnunetv2_salstm_autoload
from nnunetv2_salstm.config import FRAMES, SALSTMConfig
from nnunetv2_salstm.host.augmentation import synchronise_frames
from nnunetv2_salstm.host.checkpoints import (
    CheckpointError,
    DamagedCheckpoint,
    RefusedCheckpoint,
    read_checkpoint,
    write_failed,
)
from nnunetv2_salstm.host.frames import channels_of_a_frame
from nnunetv2_salstm.host.seeds import seed_everything
from nnunetv2_salstm.host.trainer_names import NAME, TrainerName
from nnunetv2_salstm.host.versions import describe_nnunet
from nnunetv2_salstm.plans import add_to_plans, salstm_of

# Whoever imports trainers wants nnU-Net to find them, also if the variable was set since this package was imported.
nnunetv2_salstm_autoload.register()

# Behind the name of a checkpoint that is being written.
UNFINISHED = ".unfinished"


class SALSTMTrainerMixin:
    """Makes an nnU-Net trainer train the planned network with SA-LSTM blocks; put it before the trainer's class.

    The plans are rewritten before nnU-Net sees them (see `nnunetv2_salstm.plans`), everything else is nnU-Net's, except
    that a checkpoint only replaces the earlier one when it is complete, that short runs save it more often, and that
    frames with their neighbours (2.5D) share the draws of intensity augmentation.
    """

    parsed_name: TrainerName

    # nnU-Net's own attributes that are used here.
    configuration_manager: ConfigurationManager
    configuration_name: str
    current_epoch: int
    disable_checkpointing: bool
    local_rank: int
    network: nn.Module
    num_epochs: int
    output_folder: str
    output_folder_base: str
    save_every: int
    print_to_log_file: Callable[..., None]
    was_initialized: bool

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own signature)
    ):
        planned = plans
        if self.parsed_name.salstm is not None:
            plans = add_to_plans(plans, configuration, self.parsed_name.salstm)
        elif salstm_of(plans, configuration) is not None:
            raise ValueError(
                f"the plans of configuration {configuration!r} name SA-LSTM blocks but {type(self).__name__} trains "
                "the stock network; take other plans, or the trainer nnUNetTrainer to train these"
            )
        # How many channels each frame of the input has; None without neighbours.
        self.channels_of_a_frame = None
        if (salstm_of(plans, configuration) or {}).get("sequence") == "frames":
            self.channels_of_a_frame = channels_of_a_frame(dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)  # type: ignore[call-arg]
        if self.channels_of_a_frame is not None:
            before, now = PlansManager(planned).get_configuration(configuration), self.configuration_manager
            if now.batch_size != before.batch_size:
                self.print_to_log_file(
                    f"Batch size {now.batch_size} instead of the planned {before.batch_size}: the encoder runs for "
                    f"{', '.join(FRAMES)}, and memory was planned for one pass."
                )

    @property
    def salstm(self) -> dict[str, Any] | None:
        """The resolved configuration of this run's modules, None for the stock network."""
        return self.configuration_manager.network_arch_init_kwargs.get("salstm")

    def initialize(self) -> None:
        """Sets what the name says, then lets nnU-Net build network, optimiser and loss."""
        if self.parsed_name.epochs is not None:
            self.num_epochs = self.parsed_name.epochs
        if self.parsed_name.iterations is not None:
            self.num_iterations_per_epoch = self.parsed_name.iterations
            self.num_val_iterations_per_epoch = max(1, self.parsed_name.iterations // 5)
        self.save_every = max(1, min(self.save_every, self.num_epochs // 20))
        if self.parsed_name.seed is not None:
            seed_everything(self.parsed_name.seed)
        super().initialize()  # type: ignore[misc]
        self.print_to_log_file(f"SA-LSTM: {_describe(self.salstm, self.network)}")

    def on_train_start(self) -> None:
        """Refuses to mix two configurations in one results folder, and seeds the augmentation of this process."""
        self._check_results_folder()
        if self.local_rank == 0:
            for left_by_a_kill in Path(self.output_folder).glob(f"*{UNFINISHED}"):
                left_by_a_kill.unlink()
        # nnU-Net does not say so itself; `compare` reads it.
        self.print_to_log_file(f"nnU-Net {describe_nnunet()}")
        if self.parsed_name.seed is not None:
            if not self.was_initialized:
                self.initialize()  # else nnU-Net does so next, and draws the weights from what is seeded here
            # Anew, as the modules have drawn from the generator: all methods see the same batches where nnU-Net's
            # augmenter runs in this process (nnUNet_n_proc_DA=0; its worker processes are not seeded).
            seed_everything(self.parsed_name.seed, self.current_epoch, self.local_rank)
            workers = get_allowed_n_proc_DA()
            batches = (
                f"not the batches, as the {workers} augmentation workers are not seeded (nnUNet_n_proc_DA=0 has none)"
                if workers
                else "the batches, as the augmentation runs in this process"
            )
            self.print_to_log_file(f"Seed {self.parsed_name.seed} fixes the start of the weights and {batches}.")
        super().on_train_start()  # type: ignore[misc]

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Returns nnU-Net's augmentation; in 2.5D all frames of a sample share the draws."""
        # nnU-Net's is static, but it calls it on the trainer.
        transforms = super().get_training_transforms(*args, **kwargs)  # type: ignore[misc]
        if self.channels_of_a_frame is None:
            return transforms
        return synchronise_frames(transforms, self.channels_of_a_frame)

    def save_checkpoint(self, filename: str) -> None:
        """Saves a checkpoint; an interruption or a full disk leaves the earlier file as it was.

        Raises:
            OSError: if it cannot be written.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # type: ignore[misc]
            return
        unfinished = Path(f"{filename}{UNFINISHED}")
        try:
            super().save_checkpoint(str(unfinished))  # type: ignore[misc]
            unfinished.replace(filename)
        except (OSError, RuntimeError) as error:
            if not write_failed(error):
                raise
            free = shutil.disk_usage(unfinished.parent).free
            raise OSError(
                f"checkpoint {filename} could not be written ({error}); {free / 1e9:.1f} GB are free there. An earlier "
                "file of that name is as it was: make room, or mend what else is named, and continue with --c"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, *checkpoint: Any, **named: Any) -> None:
        """Loads a checkpoint of the same modules, a file or what was read of one.

        nnU-Net calls its argument filename_or_checkpoint in releases and checkpoint since; either may be named.

        Raises:
            ValueError: if its modules are configured otherwise than this run's (names both), or if the file is damaged
                (names those beside it that are whole).
        """
        (given,) = (*checkpoint, *named.values())
        read, place = given, "the checkpoint"
        if isinstance(given, (str, os.PathLike)):
            given, file = os.fspath(given), Path(given)
            read, place = {}, f"checkpoint {file}"
            try:
                read = read_checkpoint(file)
            except RefusedCheckpoint as error:
                # nnU-Net reads more than is safe; what it reads is not refused here.
                self.print_to_log_file(f"{error}. nnU-Net loads it all the same; its modules are not compared.")
            except DamagedCheckpoint as error:
                raise DamagedCheckpoint(f"{error}; {_whole_beside(file)}") from None
        if arguments := read.get("init_args"):
            theirs = salstm_of(arguments["plans"], arguments["configuration"])
            # How their training starts is over where a checkpoint is loaded.
            there, here = _resolved(theirs), _resolved(self.salstm)
            if (there and there.same_network()) != (here and here.same_network()):
                raise ValueError(_two_configurations(place, theirs, self.salstm))
        super().load_checkpoint(given)  # type: ignore[misc]

    def _check_results_folder(self) -> None:
        """Checks that the other folds in this results folder were trained with the same modules.

        All folds share one plans.json, from which prediction rebuilds their network.
        """
        folder = Path(self.output_folder_base)
        plans_file = folder / "plans.json"
        others = [c for c in folder.glob("fold_*/checkpoint_*.pth") if c.parent != Path(self.output_folder)]
        if not others or not plans_file.is_file():
            return
        theirs = salstm_of(json.loads(plans_file.read_text()), self.configuration_name)
        if _resolved(theirs) != _resolved(self.salstm):
            raise ValueError(_two_configurations(f"results folder {folder}", theirs, self.salstm))


def _describe(salstm: dict[str, Any] | None, network: nn.Module) -> str:
    """Returns what a reader of the log wants to know of the blocks, however nnU-Net has wrapped the network."""
    if salstm is None:
        return "no blocks, the stock network"
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    of_blocks = {name: size for name, size in sizes.items() if ".salstm." in f".{name}"}
    stages = sorted({name.partition("salstm.")[2].partition(".")[0] for name in of_blocks}, key=int)
    return (
        f"module {salstm['module']} on the outputs of encoder stages {', '.join(stages)}, "
        f"{sum(of_blocks.values()):,} of {sum(sizes.values()):,} parameters"
    )


def _whole_beside(checkpoint: Path) -> str:
    """Returns what to do about a damaged checkpoint."""
    whole = []
    for other in sorted(checkpoint.parent.glob("checkpoint_*.pth")):
        if other != checkpoint:
            try:
                whole.append(f"{other.name} (epoch {read_checkpoint(other)['current_epoch']})")
            except (CheckpointError, KeyError):
                continue  # named neither as damaged nor as whole: it was not asked for
    if whole:
        return (
            f"whole are {', '.join(whole)}; remove the damaged file and continue with --c, which takes "
            "checkpoint_final, checkpoint_latest or checkpoint_best, the first there is"
        )
    return "there is no whole one beside it; remove it and train anew"


def _resolved(salstm: dict[str, Any] | None) -> SALSTMConfig | None:
    """Returns the configuration of values in plans, of whichever format; None for the stock network."""
    return None if salstm is None else SALSTMConfig.from_json(salstm)


def _two_configurations(place: str, theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> str:
    stock = {"network": "stock, without SA-LSTM blocks"}
    theirs, ours = (stock if values is None else SALSTMConfig.from_json(values).to_json() for values in (theirs, ours))
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return (
        f"{place} holds another configuration than this run: "
        f"{ {name: theirs.get(name) for name in names} } there, { {name: ours.get(name) for name in names} } here. "
        'Put the values from there into arch_kwargs["salstm"] of the plans to go on with it, or train under another '
        "plans name (-p)"
    )


_made: dict[str, type[nnUNetTrainer]] = {}


def get_trainer(name: str) -> type[nnUNetTrainer]:
    """Returns the trainer of this name, always the same class, so that it can be pickled.

    Raises:
        ValueError: if it is no trainer of this package.
    """
    if name not in _made:
        parsed = TrainerName.parse(name)
        _made[name] = type(name, (SALSTMTrainerMixin, nnUNetTrainer), {"__module__": __name__, "parsed_name": parsed})
    return _made[name]


def __getattr__(name: str) -> type[nnUNetTrainer]:
    """Makes every trainer an attribute of this module: suffixes leave too many names to list."""
    if NAME.match(name):
        try:
            return get_trainer(name)
        except ValueError as error:
            raise AttributeError(str(error)) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
