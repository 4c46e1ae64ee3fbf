"""Augmentation of frames that come with their neighbours: one draw for all frames of a sample."""

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from torch import Tensor


class OneDrawForAllFrames(ImageOnlyTransform):
    """Applies an intensity transform to every frame of an image with the parameters drawn for the current one.

    Intensity transforms draw for each channel; neighbouring frames would differ in brightness, contrast or sharpness
    as they never do. Channels within a frame (colours) keep draws of their own, noise is new in every voxel.

    Args:
        transform: of batchgeneratorsv2.
        channels: of one frame; the image, (frames * channels, *S), begins with the current frame's.
    """

    def __init__(self, transform: ImageOnlyTransform, channels: int):
        super().__init__()
        self.transform = transform
        self.channels = channels

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Returns what the transform draws for the current frame."""
        return self.transform.get_parameters(**{**data_dict, "image": data_dict["image"][: self.channels]})

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return torch.cat([self.transform._apply_to_image(frame, **params) for frame in img.split(self.channels)])


def synchronise_frames(transforms: BasicTransform, channels: int, random: bool = False) -> BasicTransform:
    """Returns nnU-Net's training transforms with one draw of every random intensity transform for all frames.

    Spatial transforms act on all channels alike as they are.

    Args:
        transforms: changed in place, those within others too.
        channels: of one frame.
        random: whether they are part of a random transform.
    """
    if isinstance(transforms, ComposeTransforms):
        transforms.transforms = [synchronise_frames(part, channels, random) for part in transforms.transforms]
    elif isinstance(transforms, OneOfTransform):
        parts = transforms.list_of_transforms
        transforms.list_of_transforms = [synchronise_frames(part, channels, True) for part in parts]
    elif isinstance(transforms, RandomTransform):
        transforms.transform = synchronise_frames(transforms.transform, channels, True)
    elif random and isinstance(transforms, ImageOnlyTransform):
        return OneDrawForAllFrames(transforms, channels)
    return transforms
