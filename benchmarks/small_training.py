"""One training of the small study: the product's network, nnU-Net's data, loss, optimiser and schedule, on one core."""

import itertools
import json
import random
import re
import runpy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_tables import CURVE_POINTS, FORMAT
from torch import Tensor, nn

from nnunetv2_salstm.evaluation.features import effective_rank
from nnunetv2_salstm.host.augmentation import synchronise_frames
from nnunetv2_salstm.host.seeds import seed_everything
from nnunetv2_salstm.host.versions import describe_hardware, package_versions
from nnunetv2_salstm.networks import add_salstm
from nnunetv2_salstm.nn import switched_off
from nnunetv2_salstm.plans import add_to_plans, architecture_of, build_network

STAGES = 4
FEATURES = (12, 24, 48, 96)
LIGHT = (MultiplicativeBrightnessTransform, ContrastTransform, GammaTransform)
# Test cases on which the curve is drawn, and blocks are examined and switched off.
EXAMINED_CASES = 4
WINDOW_STEP = 0.75
WINDOWS_AT_ONCE = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """Data and network of a comparison.

    Attributes:
        dataset: folder of nnU-Net's raw data.
        whole: raw data whose images it has, cut around their labels; "" where they are whole.
        source: folder below the real data that it is made from.
        convert: arguments of `nnUNetv2_salstm convert`; () where the source is raw data already.
        configuration: of nnU-Net's plans.
        patch_size, batch_size: in voxels; in cases.
        test_folds: of nnU-Net's five, whose validation cases are the test cases.
        salstm: values of the blocks' configuration that belong to the setting.
        spacing: of the voxels in mm, of pixels after nnU-Net's 999; () for nnU-Net's own.
        host: the network that gets the blocks: "plain" or "residual", of nnU-Net, or "swin_unetr", of MONAI.
    """

    dataset: str
    whole: str
    source: str
    convert: tuple[str, ...]
    configuration: str
    patch_size: tuple[int, ...]
    batch_size: int
    test_folds: tuple[int, ...]
    salstm: tuple[tuple[str, Any], ...] = ()
    spacing: tuple[float, ...] = ()
    host: str = "plain"

    @property
    def plans(self) -> str:
        """The name of nnU-Net's plans that it starts from."""
        return "nnUNetPlans_coarse" if self.spacing else "nnUNetPlans"


# Small patches of a whole chest, or of a whole photograph, hold too little for so short a training to learn from.
_ACDC = ("Dataset227_ACDC_heart", "Dataset027_ACDC", "ACDC_official_layout", ("acdc",))
_ACDC_25D = ("Dataset327_ACDC_25d_heart", "Dataset127_ACDC_25d", "ACDC_official_layout", ("acdc", "--neighbours", "1"))
_HIPPOCAMPUS = ("Dataset004_Hippocampus", "", "Dataset004_Hippocampus", (), "3d_fullres", (24, 32, 24), 2, (0,))
_ISIC = ("Dataset701_ISIC2018", "", "ISIC2018_sample", ("isic2018",), "2d", (128, 128), 4, (0, 1))
SETTINGS = {
    "acdc_3d": Setting(*_ACDC, "3d_fullres", (8, 64, 64), 2, (0, 1), spacing=(10, 2.4, 2.4)),
    "acdc_25d": Setting(*_ACDC_25D, "2d", (96, 96), 8, (0, 1), (("sequence", "frames"),)),
    "hippocampus_3d": Setting(*_HIPPOCAMPUS),
    "hippocampus_3d_resenc": Setting(*_HIPPOCAMPUS, host="residual"),
    "isic_2d": Setting(*_ISIC, spacing=(999, 4, 4)),
    "isic_2d_swin": Setting(*_ISIC, spacing=(999, 4, 4), host="swin_unetr"),
}

# A method is "stock", or a module with its initial gain and any number of these, such as A1_centred_skips.
VARIANTS: dict[str, dict[str, Any]] = {
    "centred": {"attention": "centred"},
    "correlation": {"attention": "correlation"},
    "tau57": {"attention_scale": 57.0},
    "tau190": {"attention_scale": 190.0},
    "bottleneck": {"placement": "bottleneck"},
    "skips": {"placement": "skips"},
    "deep": {"placement": [1, 2, 3]},
    "grid1": {"grid": 1},
    "steps3": {"steps": 3},
    "lr3": {"rate": 3.0},
    "lr10": {"rate": 10.0},
    "gain": {"addition": "gain"},
    "norm": {"addition": "norm"},
}
_METHOD = re.compile(rf"(A|B|bdclstm|conv)(\d+(?:\.\d+)?)((?:_(?:{'|'.join(VARIANTS)}))*)")


def parse_method(name: str) -> dict[str, Any] | None:
    """Returns the values a method's name stands for, None for the stock network.

    Raises:
        ValueError: if it is no method.
    """
    if name == "stock":
        return None
    match = _METHOD.fullmatch(name)
    if not match:
        raise ValueError(
            f"a method must be stock, or A, B, bdclstm or conv with its initial gain and any of the variants "
            f"{', '.join(VARIANTS)}, such as A1_centred; got {name!r}"
        )
    values: dict[str, Any] = {"module": match[1], "initial_gain": float(match[2])}
    for variant in match[3].split("_")[1:]:
        values.update(VARIANTS[variant])
    return values


def small_plans(plans: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """Returns nnU-Net's plans with the first stages of their network, made narrow, and a small patch."""
    architecture = architecture_of(plans, setting.configuration)
    arguments = architecture["arch_kwargs"]
    convolutions = (2,) * STAGES
    arguments.update(
        n_stages=STAGES,
        features_per_stage=list(FEATURES),
        kernel_sizes=arguments["kernel_sizes"][:STAGES],
        strides=arguments["strides"][:STAGES],
        n_conv_per_stage=convolutions,
        n_conv_per_stage_decoder=convolutions[1:],
    )
    if setting.host == "residual":
        architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    plans["configurations"][setting.configuration].update(
        architecture=architecture, patch_size=list(setting.patch_size), batch_size=setting.batch_size
    )
    return plans


class Data:
    """A setting's preprocessed cases: batches to train on, and whole test cases.

    Args:
        folder: of nnU-Net's preprocessed data set.
        setting: which of its configurations, patch and split.
    """

    def __init__(self, folder: Path, setting: Setting):
        self.setting = setting
        self.dataset_json = json.loads((folder / "dataset.json").read_text())
        self.plans = small_plans(json.loads((folder / f"{setting.plans}.json").read_text()), setting)
        self.manager = PlansManager(self.plans)
        self.configuration = self.manager.get_configuration(setting.configuration)
        self.labels = self.manager.get_label_manager(self.dataset_json)
        self.source = str(folder / self.configuration.data_identifier)
        self.dataset_class = infer_dataset_class(self.source)
        file, cases = folder / "splits_final.json", sorted(self.dataset_class.get_identifiers(self.source))
        self.splits = json.loads(file.read_text()) if file.is_file() else generate_crossval_split(cases)
        held_out = sorted(case for fold in setting.test_folds for case in self.splits[fold]["val"])
        self.training_cases = [case for case in cases if case not in held_out]
        # One case a patient, of two that is the first and the second in turn.
        by_patient = [list(group) for _, group in itertools.groupby(held_out, lambda case: case.partition("_frame")[0])]
        self.test_cases = [group[number % len(group)] for number, group in enumerate(by_patient)]

    @property
    def structures(self) -> dict[str, int]:
        """The foreground labels by name."""
        return {name: value for name, value in self.dataset_json["labels"].items() if value}

    def batches(self) -> nnUNetDataLoader:
        """Returns nnU-Net's loader of random patches, with the light part of its augmentation."""
        axes = tuple(range(len(self.setting.patch_size)))
        strides = np.cumprod(np.vstack(self.configuration.pool_op_kernel_sizes), axis=0)
        transforms: Any = nnUNetTrainer.get_training_transforms(
            self.setting.patch_size, (0, 0), [list(1 / stride) for stride in strides][:-1], axes, False
        )
        transforms.transforms = [t for t in transforms.transforms if not _is_heavy(t)]
        if dict(self.setting.salstm).get("sequence") == "frames":
            synchronise_frames(transforms, len(self.dataset_json["channel_names"]) // 3)
        dataset = self.dataset_class(self.source, list(self.training_cases))
        sizes = self.setting.batch_size, self.setting.patch_size, self.setting.patch_size
        return nnUNetDataLoader(dataset, *sizes, self.labels, 0.33, transforms=transforms)

    def case(self, name: str) -> tuple[Tensor, np.ndarray]:
        """Returns a preprocessed image, (C, *S), and its labels, (*S)."""
        image, labels, _, _ = self.dataset_class(self.source, [name]).load_case(name)
        return torch.from_numpy(image[:]), labels[:][0]


def _is_heavy(transform: Any) -> bool:
    if isinstance(transform, RandomTransform):
        return not isinstance(transform.transform, LIGHT)
    return isinstance(transform, SpatialTransform)


class Gain(nn.Module):
    """Multiplies channels, (B, channels, *S), by learned factors."""

    def __init__(self, channels: int, start: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, *[1] * (x.dim() - 2))


# What blocks add may pass through one of these; the package has neither. Both start all channels alike: at nothing,
# though the last convolution is not zero, or at a tenth of what has been normalised.
ADDITIONS: dict[str, Callable[[int], nn.Module]] = {
    "gain": Gain,
    "norm": lambda channels: nn.Sequential(nn.GroupNorm(1, channels, affine=False), Gain(channels, 0.1)),
}


def put_behind(blocks: Iterable[Any], addition: Callable[[int], nn.Module]) -> None:
    """Passes what blocks add through a module of its own each, registered as the block's `addition`."""
    for block in blocks:
        block.addition = addition(block.channels)
        block.layer.register_forward_hook(lambda _, inputs, output, block=block: block.addition(output))


def build(data: Data, method: str) -> tuple[nn.Module, float, dict[str, Any] | None]:
    """Returns a method's network by way of the plans, the blocks' factor of the learning rate, and their values."""
    values, plans, setting = parse_method(method) or {}, data.plans, data.setting
    rate, addition = values.pop("rate", 1.0), values.pop("addition", None)
    if values:
        plans = add_to_plans(plans, setting.configuration, {**values, **dict(setting.salstm)})
    channels = determine_num_input_channels(data.manager, data.configuration, data.dataset_json)
    classes = data.labels.num_segmentation_heads
    architecture = architecture_of(plans, setting.configuration)
    salstm = architecture["arch_kwargs"].get("salstm")
    network: Any
    if setting.host == "swin_unetr":
        network = build_swin_unetr(len(setting.patch_size), channels, classes)
        if salstm:
            add_salstm(network, salstm)
    else:
        network = build_network(architecture, channels, classes)
    if addition:
        put_behind(network.salstm.values(), ADDITIONS[addition])
    return network, rate, salstm


def build_swin_unetr(axes: int, channels: int, classes: int) -> nn.Module:
    """Returns MONAI's smallest SwinUNETR, by way of the example's adapter."""
    from monai.networks.nets import SwinUNETR

    example = Path(__file__).parents[1] / "examples" / "monai_swin_unetr.py"
    adapter: Any = runpy.run_path(str(example))["SwinUNETRInTwo"]
    return adapter(SwinUNETR(channels, classes, feature_size=12, spatial_dims=axes))


def build_loss(data: Data) -> nn.Module:
    """Returns nnU-Net's loss for the resolutions at which the network gives an output."""
    dice = {"batch_dice": data.configuration.batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    if data.setting.host == "swin_unetr":
        return DeepSupervisionWrapper(loss, [1.0])
    weights = np.array([1 / 2**i for i in range(STAGES - 1)])
    weights[-1] = 0
    return DeepSupervisionWrapper(loss, weights / weights.sum())


class Predictor:
    """nnU-Net's sliding window over preprocessed cases, without mirroring.

    In batches, unlike nnU-Net's own: on one thread torch convolves a single volume five times slower.
    """

    def __init__(self, data: Data, network: nn.Module):
        self.data, self.network = data, network
        self.is_2d = len(data.setting.patch_size) == 2
        self.window = (1, *data.setting.patch_size) if self.is_2d else data.setting.patch_size
        self.weights = compute_gaussian(self.window, value_scaling_factor=10, dtype=torch.float32, device=CPU)

    def dice(self, cases: list[str]) -> dict[str, list[float | None]]:
        """Returns the Dice of each structure in each case; None where it is neither there nor predicted."""
        decoder: Any = self.network.decoder
        decoder.deep_supervision = False
        self.network.eval()
        scores = {}
        for case in cases:
            image, labels = self.data.case(case)
            predicted = self.logits(image).argmax(0).numpy()
            scores[case] = [_dice(predicted == value, labels == value) for value in self.data.structures.values()]
        decoder.deep_supervision = True
        self.network.train()
        return scores

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Returns the network's outputs for an image, (C, *S), summed with their weights, (classes, *S)."""
        padded, inside = pad_nd_image(image, self.window, "constant", {"value": 0}, True)
        steps = compute_steps_for_sliding_window(padded.shape[1:], self.window, WINDOW_STEP)
        places = [
            (slice(None), *(slice(at, at + size) for at, size in zip(start, self.window, strict=True)))
            for start in itertools.product(*steps)
        ]
        total = torch.zeros(self.data.labels.num_segmentation_heads, *padded.shape[1:])
        for first in range(0, len(places), WINDOWS_AT_ONCE):
            few = places[first : first + WINDOWS_AT_ONCE]
            patches = torch.stack([padded[place] for place in few])
            outputs = self.network(patches[:, :, 0]).unsqueeze(2) if self.is_2d else self.network(patches)
            for place, output in zip(few, outputs, strict=True):
                total[place] += output * self.weights
        return total[(slice(None), *inside[1:])]


def _dice(predicted: np.ndarray, reference: np.ndarray) -> float | None:
    total = predicted.sum() + reference.sum()
    return round(float(2 * (predicted & reference).sum() / total), 4) if total else None


def mean_dice(scores: dict[str, list[float | None]]) -> float:
    """Returns the mean over cases of the mean over the structures that a case has."""
    return round(float(np.mean([np.mean([s for s in case if s is not None]) for case in scores.values()])), 4)


class Spy:
    """What blocks do while a network predicts: their share of the skip, and the ranks of A, V and Y = A V."""

    def __init__(self, blocks: dict[str, Any]):
        self.blocks = blocks
        self.seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches in this context."""
        with ExitStack() as stack:
            for stage, block in self.blocks.items():
                compute = block.forward

                def forward(x: Tensor, stage: str = stage, compute: Any = compute) -> Tensor:
                    out = compute(x)
                    current = x[: len(out)]  # in 2.5D the other frames follow
                    self.seen[stage]["share"].append(float((out - current).norm() / current.norm()))
                    return out

                _hide(stack, block, "forward", forward)
                for name in ("forward_net", "reverse_net"):
                    net = getattr(getattr(block.layer, "layer", None), name, None)
                    if net is not None:
                        _hide(stack, net.attention, "factors", self._factors(stage, net.attention.factors))
            yield

    def _factors(self, stage: str, compute: Any) -> Any:
        def factors(state: Any) -> Any:
            matrix, value = compute(state)
            found = {"rank_a": matrix.expand(len(value), -1, -1), "rank_v": value, "rank_y": matrix @ value}
            for name, matrices in found.items():
                self.seen[stage][name].append(float(effective_rank(matrices).nanmean()))
            return matrix, value

        return factors

    def result(self) -> dict[str, dict[str, float]]:
        """Returns the means by stage."""
        return {
            stage: {name: round(float(np.mean(values)), 3) for name, values in found.items()}
            for stage, found in self.seen.items()
        }


def _hide(stack: ExitStack, module: Any, method: str, function: Any) -> None:
    setattr(module, method, function)
    stack.callback(delattr, module, method)


class Training:
    """A training that can be cut off and gone on with.

    Args:
        data: batches and plans.
        method: see `parse_method`.
        steps: length of the schedule.
        seed: of the weights and of the batches, which are the same for all methods.
        unfinished: file that holds the state in between.
    """

    def __init__(self, data: Data, method: str, steps: int, seed: int, unfinished: Path):
        self.steps, self.unfinished = steps, unfinished
        seed_everything(seed)
        self.network, self.rate, self.salstm = build(data, method)
        ours = [p for name, p in self.network.named_parameters() if name.startswith("salstm.")]
        stock = [p for name, p in self.network.named_parameters() if not name.startswith("salstm.")]
        groups = [{"params": stock}, {"params": ours}] if ours else [{"params": stock}]
        self.optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
        self.schedule = PolyLRScheduler(self.optimizer, 1e-2, steps)
        self.loss = build_loss(data)
        seed_everything(seed, 1)
        self.batches = data.batches()
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.loss_curve: dict[int, float] = {}
        self.dice_curve: dict[int, float] = {}
        if unfinished.is_file():
            self._load()

    def run(self, predictor: "Predictor", examined: list[str]) -> None:
        """Makes the steps that are left."""
        a_point = max(1, self.steps // CURVE_POINTS)
        while self.step < self.steps:
            begun = time.process_time()
            self._make_step()
            self.seconds += time.process_time() - begun
            if self.step % a_point == 0:
                self.loss_curve[self.step] = round(float(np.mean(self.losses)), 4)
                self.losses = []
                if self.step % (a_point * CURVE_POINTS // 4) == 0 and self.step < self.steps:
                    self.dice_curve[self.step] = mean_dice(predictor.dice(examined))
                self._save()

    def _make_step(self) -> None:
        self.schedule.step(self.step)
        for group in self.optimizer.param_groups[1:]:
            group["lr"] *= self.rate
        batch = self.batches.generate_train_batch()
        outputs = self.network(batch["data"])
        loss = self.loss(outputs if isinstance(outputs, list) else [outputs], batch["target"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        self.step += 1

    _KEPT = ("step", "seconds", "losses", "loss_curve", "dice_curve")

    def _save(self) -> None:
        self.unfinished.parent.mkdir(parents=True, exist_ok=True)
        state = {name: getattr(self, name) for name in self._KEPT}
        state.update(network=self.network.state_dict(), optimizer=self.optimizer.state_dict())
        state.update(generators=(random.getstate(), np.random.get_state(), torch.get_rng_state()))
        written = self.unfinished.with_suffix(".new")
        torch.save(state, written)
        written.replace(self.unfinished)

    def _load(self) -> None:
        state = torch.load(self.unfinished, weights_only=False)
        for name in self._KEPT:
            setattr(self, name, state[name])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        of_python, of_numpy, of_torch = state["generators"]
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


def train(data: Data, method: str, steps: int, seed: int, unfinished: Path) -> dict[str, Any]:
    """Trains and evaluates once; returns what goes into the run's file."""
    training = Training(data, method, steps, seed, unfinished)
    network: Any = training.network
    examined = data.test_cases[:: max(1, len(data.test_cases) // EXAMINED_CASES)][:EXAMINED_CASES]
    predictor = Predictor(data, network)
    training.run(predictor, examined)
    trained = time.process_time()
    scores = predictor.dice(data.test_cases)
    of_examined = mean_dice({case: scores[case] for case in examined})
    blocks: dict[str, Any] = dict(network.salstm.items()) if training.salstm else {}
    spy, removed = Spy(blocks), {}
    if blocks:
        with spy.watching():
            predictor.dice(examined[:2])
        for name, off in {"all": blocks, **{stage: {stage: blocks[stage]} for stage in blocks}}.items():
            with switched_off(list(off.values())):
                removed[name] = round(mean_dice(predictor.dice(examined)) - of_examined, 4)
    seconds = {"training": round(training.seconds), "evaluation": round(time.process_time() - trained)}
    return {
        "format": FORMAT,
        "method": method,
        "steps": steps,
        "seed": seed,
        "dice": mean_dice(scores),
        "structures": list(data.structures),
        "salstm": training.salstm,
        "rate": training.rate,
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss_curve": training.loss_curve,
        "dice_curve": {**training.dice_curve, steps: of_examined},
        "removed": removed,
        "blocks": spy.result(),
        "examined": examined,
        "training_cases": len(data.training_cases),
        "cpu_seconds": seconds,
        "versions": package_versions(),
        "hardware": describe_hardware("cpu"),
        "cases": scores,
    }
