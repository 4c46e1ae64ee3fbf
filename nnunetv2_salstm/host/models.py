"""A trained model: nnU-Net's folder of it, and the network rebuilt from its plans without any trainer."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunetv2_salstm.host.checkpoints import CheckpointError, read_checkpoint, trained_as
from nnunetv2_salstm.host.datasets import read_dataset_json
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import read_json
from nnunetv2_salstm.plans import build_network, resolve


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        folder: nnU-Net's, with plans.json, dataset.json and fold_<k>.
        fold, checkpoint: which training of it.
        trainer, configuration_name: what was trained, and how.
        plans, configuration: nnU-Net's managers of the plans.
        dataset_json: of the data it was trained on.
        network: without deep supervision.
    """

    folder: Path
    fold: str
    checkpoint: str
    trainer: str
    configuration_name: str
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    network: Any

    @classmethod
    def read(cls, folder: Path, fold: str | None, checkpoint_name: str) -> "Model":
        """Reads a model's folder.

        Args:
            folder: TRAINER__PLANS__CONFIGURATION.
            fold: number or "all"; None for the first that has the checkpoint.
            checkpoint_name: e.g. checkpoint_final.pth.

        Raises:
            SalstmError: if it is none, lacks the fold or checkpoint, or cannot be rebuilt.
        """
        for name in ("plans.json", "dataset.json"):
            if not (folder / name).is_file():
                raise SalstmError(
                    f"MODEL_FOLDER must be nnU-Net's folder of a trained model, TRAINER__PLANS__CONFIGURATION, with "
                    f"plans.json and dataset.json; {folder} has no {name}"
                )
        fold = _find_fold(folder, fold, checkpoint_name)
        file = folder / f"fold_{fold}" / checkpoint_name
        try:
            checkpoint = read_checkpoint(file)
            trainer, configuration_name = trained_as(file, checkpoint)
        except CheckpointError as error:
            raise SalstmError(f"{error}; or name another one with -chk") from None
        plans_json = read_json(folder / "plans.json", "plans")
        dataset_json = read_dataset_json(folder / "dataset.json", ("labels", "file_ending"))
        there = plans_json.get("configurations")
        if not isinstance(there, dict) or configuration_name not in there:
            raise SalstmError(
                f"{folder / 'plans.json'} must have the configuration of {checkpoint_name}, {configuration_name}; it "
                f"has {', '.join(there or ()) or 'none'}. Take the plans.json that was written with it"
            )
        try:
            resolve(plans_json, configuration_name)
        except ValueError as error:
            raise SalstmError(f"{folder / 'plans.json'}: {error}") from None
        plans = PlansManager(plans_json)
        configuration = plans.get_configuration(configuration_name)
        if configuration.previous_stage_name is not None:
            raise SalstmError(
                f"{folder} is the second stage of a cascade, which also reads the first one's predictions; "
                f"inspect the first stage instead: {configuration.previous_stage_name}"
            )
        try:
            network = _build(plans, configuration, dataset_json)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise SalstmError(f"the network in {folder / 'plans.json'} cannot be built: {error}") from None
        try:
            network.load_state_dict(checkpoint["network_weights"])
        except RuntimeError:
            raise SalstmError(
                f"{file} does not fit the network that plans.json names; {trainer} builds another one, which cannot "
                "be inspected"
            ) from None
        # nnU-Net's encoders return the skips of all stages.
        if not getattr(getattr(network, "encoder", None), "return_skips", False):
            raise SalstmError(
                f"the network of {folder}, {type(network).__name__}, has no encoder with skips; networks that can be "
                "inspected are nnU-Net's PlainConvUNet and ResidualEncoderUNet, with or without SA-LSTM modules"
            )
        return cls(
            folder, fold, checkpoint_name, trainer, configuration_name, plans, configuration, dataset_json, network
        )

    @property
    def salstm(self) -> dict[str, Any] | None:
        """The configuration of its SA-LSTM modules, None for a stock network."""
        return self.configuration.network_arch_init_kwargs.get("salstm") if hasattr(self.network, "salstm") else None

    @property
    def input_channels(self) -> int:
        """How many channels its images have."""
        return determine_num_input_channels(self.plans, self.configuration, self.dataset_json)

    @property
    def file_ending(self) -> str:
        """Of its images."""
        return self.dataset_json["file_ending"]

    @property
    def pixel(self) -> tuple[float, float]:
        """Edge lengths of a pixel as the network sees it, along H and W, in mm."""
        height, width = self.configuration.spacing[-2:]
        return float(height), float(width)

    def cell(self, stage: int) -> tuple[int, ...]:
        """Returns the edge lengths of a cell of the grid of a stage's block, in voxels of the full resolution."""
        lengths = self.network.salstm[str(stage)].stride
        for stride in self.network.encoder.strides[: stage + 1]:
            lengths = tuple(length * step for length, step in zip(lengths, stride, strict=True))
        return lengths


class TilePredictor(nnUNetPredictor):
    """nnU-Net's sliding window that keeps where the tiles lay.

    Attributes:
        slicers: of the tiles, in the order of their prediction.
        data: the image they were cut from, (C, *S), padded to a patch at least.
        logits: its prediction, (labels, *S).
    """

    slicers: list[tuple[Any, ...]]
    data: Tensor
    logits: Tensor

    def _internal_predict_sliding_window_return_logits(self, data: Tensor, slicers: Any, do_on_device: bool = True):
        self.data, self.slicers = data, slicers
        self.logits = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
        return self.logits


def make_predictor(model: Model, device: str, show_progress: bool, side_by_side: bool = True) -> TilePredictor:
    """Returns nnU-Net's predictor for a model, without mirroring.

    Args:
        model: read.
        device: as torch names it.
        show_progress: show a bar for the tiles.
        side_by_side: tiles do not overlap, so that each voxel counts about once; else as nnU-Net does it.
    """
    with redirect_stdout(io.StringIO()):  # nnU-Net says on the CPU that it is not on CUDA
        predictor = TilePredictor(
            tile_step_size=1.0 if side_by_side else 0.5,
            use_gaussian=not side_by_side,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device(device),
            allow_tqdm=show_progress,
        )
    predictor.manual_initialization(
        model.network, model.plans, model.configuration, None, model.dataset_json, model.trainer, None
    )
    # nnUNet_compile may have wrapped it: a compiled network cannot be watched.
    predictor.network = model.network
    return predictor


def labels_of(models: list[Model]) -> list[str]:
    """Returns a short and different name for each model.

    Raises:
        SalstmError: if one is given twice.
    """
    for name in (
        lambda model: model.trainer.removeprefix("nnUNetTrainer") or model.trainer,
        lambda model: model.folder.name,
        lambda model: str(model.folder),
    ):
        labels = [name(model) for model in models]
        if len(set(labels)) == len(models):
            return labels
    raise SalstmError(f"the two MODEL_FOLDERs must differ, got {models[0].folder} twice")


def _find_fold(folder: Path, fold: str | None, checkpoint_name: str) -> str:
    names = [path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()]
    there = sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    if not there:
        raise SalstmError(f"{folder} has no fold_0 or other fold; train the model first with nnUNetv2_train")
    if fold is not None and fold not in there:
        raise SalstmError(f"-f must be one of the folds of {folder}, which are {', '.join(there)}; got {fold}")
    for candidate in there if fold is None else [fold]:
        if (folder / f"fold_{candidate}" / checkpoint_name).is_file():
            return candidate
    searched = folder / f"fold_{fold or there[0]}"
    checkpoints = ", ".join(sorted(path.name for path in searched.glob("*.pth"))) or "none"
    raise SalstmError(
        f"{searched} has no {checkpoint_name}; its checkpoints are {checkpoints}: finish the training with "
        "nnUNetv2_train ... --c, or name one of them with -chk"
    )


def _build(plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any]) -> nn.Module:
    with redirect_stdout(io.StringIO()):  # nnU-Net tells where it looks for the class
        return build_network(
            configuration.configuration["architecture"],
            determine_num_input_channels(plans, configuration, dataset_json),
            plans.get_label_manager(dataset_json).num_segmentation_heads,
            initialise=False,
            deep_supervision=False,
        )
