"""Plans as nnU-Net's planner makes them for well-known data sets, to measure networks without the data."""

import re
from collections.abc import Sequence
from typing import Any

DATASET = "Dataset999_Preset"


def plan_configuration(
    patch_size: list[int], strides: list[list[int]], batch_size: int, spacing: list[float], thin_stages: int = 0
) -> dict[str, Any]:
    """Returns one configuration of nnU-Net's plans.

    Args:
        patch_size: in voxels.
        strides: of the stages after the first.
        batch_size: samples in a batch.
        spacing: in mm.
        thin_stages: how many stages have kernels of one slice, where the slices lie far apart.
    """
    dims = len(patch_size)
    stages = len(strides) + 1
    most_features = 320 if dims == 3 else 512
    return {
        "data_identifier": f"nnUNetPlans_{dims}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": patch_size,
        "spacing": spacing,
        "batch_dice": dims == 2,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [min(32 * 2**stage, most_features) for stage in range(stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [
                    [1 if dims == 3 and stage < thin_stages else 3, *[3] * (dims - 1)] for stage in range(stages)
                ],
                "strides": [[1] * dims, *strides],
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def as_residual_encoder(plain: dict[str, Any], batch_size: int | None = None) -> dict[str, Any]:
    """Returns the configuration with nnU-Net's residual encoder M in place of the plain one."""
    architecture = plain["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    stages = arguments["n_stages"]
    del arguments["n_conv_per_stage"]
    arguments["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6, 6, 6][:stages]
    arguments["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture = {**architecture, "network_class_name": name, "arch_kwargs": arguments}
    return {**plain, "batch_size": batch_size or plain["batch_size"], "architecture": architecture}


_hippocampus3d = plan_configuration([40, 56, 40], [[2, 2, 2]] * 3, 9, [1.0, 1.0, 1.0])
_acdc2d = plan_configuration([256, 224], [[2, 2]] * 5, 56, [1.5625, 1.5625])

# The quick ones first.
PRESETS = {
    "hippocampus3d": _hippocampus3d,
    "acdc2d": _acdc2d,
    "isic2d": plan_configuration([512, 512], [[2, 2]] * 7, 12, [1.0, 1.0]),
    "hippocampus3d_resenc": as_residual_encoder(_hippocampus3d, batch_size=58),
    "acdc2d_resenc": as_residual_encoder(_acdc2d, batch_size=57),
    "acdc3d": plan_configuration(
        [20, 256, 224], [[1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]], 4, [5.0, 1.5625, 1.5625], thin_stages=1
    ),
    # The planner chooses batch Dice where it also plans a lower resolution.
    "btcv3d": {
        **plan_configuration(
            [48, 192, 192], [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], 2, [3.0, 0.76, 0.76], thin_stages=1
        ),
        "batch_dice": True,
    },
    "brats3d": plan_configuration([128, 128, 128], [[2, 2, 2]] * 5, 2, [1.0, 1.0, 1.0]),
}

# Names of the input channels, and how many labels besides the background, for each data set.
_CHANNELS = {
    "hippocampus": ["MRI"],
    "acdc": ["cineMRI"],
    "btcv": ["CT"],
    "brats": ["T1", "T1ce", "T2", "FLAIR"],
    "isic": ["R", "G", "B"],
}
_LABELS = {"hippocampus": 2, "acdc": 3, "btcv": 13, "brats": 3, "isic": 1}


def name_of(configuration: dict[str, Any]) -> str:
    """Returns nnU-Net's name of a configuration."""
    return "2d" if len(configuration["patch_size"]) == 2 else "3d_fullres"


def plans_of(configuration: dict[str, Any], channels: int = 1) -> dict[str, Any]:
    """Returns nnU-Net plans with this one configuration, for images of so many channels."""
    dims = len(configuration["patch_size"])
    statistics = {"mean": 0.0, "std": 1.0, "min": 0.0, "max": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0}
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(range(dims)),
        "transpose_backward": list(range(dims)),
        "configurations": {name_of(configuration): configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): statistics for channel in range(channels)},
    }


def load_preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the plans and the dataset.json of a preset.

    Raises:
        KeyError: if there is no preset of this name.
    """
    dataset = re.split(r"[23]d", name)[0]
    channels = _CHANNELS[dataset]
    return plans_of(PRESETS[name], len(channels)), describe_dataset(channels, _LABELS[dataset])


def describe_dataset(channels: Sequence[str], labels: int) -> dict[str, Any]:
    """Returns a dataset.json for images of these channels, and so many labels besides the background."""
    return {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": {"background": 0, **{f"label {index}": index for index in range(1, labels + 1)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
