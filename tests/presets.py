"""Plans as nnU-Net's planner makes them for well-known data sets: the grids the modules have to work on."""

from typing import Any


def configuration(patch: list[int], strides: list[list[int]], thin_slices: int = 0) -> dict[str, Any]:
    """Returns one configuration of nnU-Net's plans.

    Args:
        patch: patch size in voxels.
        strides: of the stages after the first.
        thin_slices: how many stages have kernels of one slice, where the slices lie far apart.
    """
    dims = len(patch)
    stages = len(strides) + 1
    return {
        "data_identifier": f"nnUNetPlans_{dims}d",
        "batch_size": 2,
        "patch_size": patch,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [min(32 * 2**stage, 320 if dims == 3 else 512) for stage in range(stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[1 if dims == 3 and s < thin_slices else 3, *[3] * (dims - 1)] for s in range(stages)],
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


def as_residual_encoder(plain: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration with nnU-Net's residual encoder M in place of the plain one."""
    architecture = plain["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    stages = arguments["n_stages"]
    del arguments["n_conv_per_stage"]
    arguments["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6, 6, 6][:stages]
    arguments["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    return {**plain, "architecture": {**architecture, "network_class_name": name, "arch_kwargs": arguments}}


PRESETS = {
    "hippocampus_3d": configuration([40, 56, 40], [[2, 2, 2]] * 3),
    "hippocampus_2d": configuration([56, 40], [[2, 2]] * 3),
    "acdc_3d": configuration([20, 256, 224], [[1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]], thin_slices=1),
    "acdc_2d": configuration([256, 224], [[2, 2]] * 5),
    "btcv_3d": configuration([48, 192, 192], [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], thin_slices=1),
    "brats_3d": configuration([128, 128, 128], [[2, 2, 2]] * 5),
    "isic_2d": configuration([512, 512], [[2, 2]] * 7),
}


def tiny(dims: int = 3, patch: list[int] | None = None, strides: list[list[int]] | None = None) -> dict[str, Any]:
    """Returns a configuration of few channels, for networks that are built and run in a test."""
    plan = configuration(patch or [8, 24, 16][-dims:], strides or [[1, 2, 2][-dims:], [2, 2, 2][-dims:]])
    plan["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 32, 32, 32][: len(strides or [0, 0]) + 1]
    return plan


def plans_of(plan: dict[str, Any], name: str = "nnUNetPlans") -> dict[str, Any]:
    """Returns plans with this one configuration, named as nnU-Net names it."""
    return {"plans_name": name, "dataset_name": "Dataset999_Test", "configurations": {name_of(plan): plan}}


def name_of(plan: dict[str, Any]) -> str:
    """Returns nnU-Net's name of a configuration."""
    return "2d" if len(plan["patch_size"]) == 2 else "3d_fullres"
