"""Augmentation of frames: nnU-Net's own transforms, with one draw for the frames of a sample."""

import copy

import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_salstm.host.augmentation import OneDrawForAllFrames, synchronise_frames
from nnunetv2_salstm.host.seeds import seed_everything

CHANNELS = 2


def nnunet_transforms():
    """Returns nnU-Net's training transforms for 2D, each of them certain to be applied."""
    transforms = nnUNetTrainer.get_training_transforms(
        patch_size=(24, 20), rotation_for_DA=(-3.1, 3.1), deep_supervision_scales=None, mirror_axes=(0, 1),
        do_dummy_2d_data_aug=False, use_mask_for_norm=[False] * 3 * CHANNELS,
    )  # fmt: skip
    for transform in transforms.transforms:
        if isinstance(transform, RandomTransform):
            transform.apply_probability = 1
            if isinstance(transform.transform, GaussianBlurTransform):
                transform.transform.benchmark = False  # it chooses its algorithm by stopwatch
    return transforms


def intensity_transforms(transforms):
    return [
        t.transform
        for t in transforms.transforms
        if isinstance(t, RandomTransform) and isinstance(t.transform, ImageOnlyTransform)
    ]


def three_equal_frames(seed):
    torch.manual_seed(seed)
    return torch.randn(CHANNELS, 24, 20).repeat(3, 1, 1)


@pytest.mark.parametrize("index", range(7))
def test_equal_frames_stay_equal_under_every_transform_but_noise(index):
    transform = intensity_transforms(synchronise_frames(nnunet_transforms(), CHANNELS))[index]
    alone = intensity_transforms(nnunet_transforms())[index]
    assert isinstance(transform, OneDrawForAllFrames)
    differing = changed = colours_differ = 0
    for seed in range(20):
        image = three_equal_frames(seed)
        image[1::CHANNELS] = image[0]  # so that two colours of a frame are equal too
        frames = transform(image=image.clone())["image"].unflatten(0, (3, CHANNELS))
        changed += not torch.equal(frames.flatten(0, 1), image)
        colours_differ += not torch.equal(frames[0, 0], frames[0, 1])
        if not isinstance(transform.transform, GaussianNoiseTransform):
            assert torch.equal(frames[0], frames[1])
            assert torch.equal(frames[0], frames[2])
        else:
            noise = frames - image.unflatten(0, (3, CHANNELS))
            assert not torch.equal(noise[0], noise[1])
            spread = noise.flatten(1).std(dim=1)
            assert spread.max() < 1.3 * spread.min() + 1e-6  # of one strength
        frames = alone(image=image.clone())["image"].unflatten(0, (3, CHANNELS))
        differing += not torch.equal(frames[0], frames[1])
    assert changed >= 10
    assert differing >= 10  # what nnU-Net does by itself
    assert colours_differ >= 10


def test_a_single_frame_is_augmented_as_nnunet_does():
    ours, stock = synchronise_frames(nnunet_transforms(), CHANNELS), nnunet_transforms()
    image = three_equal_frames(0)[:CHANNELS]
    for pair in zip(intensity_transforms(ours), intensity_transforms(stock), strict=True):
        results = []
        for transform in pair:
            seed_everything(3)
            results.append(transform(image=image.clone())["image"])
        assert torch.equal(*results), type(pair[1])


def test_the_whole_augmentation_keeps_equal_frames_equal():
    transforms = synchronise_frames(nnunet_transforms(), CHANNELS)
    noise = next(t for t in transforms.transforms if isinstance(t, RandomTransform))
    assert isinstance(noise.transform.transform, GaussianNoiseTransform)
    noise.apply_probability = 0
    for seed in range(5):
        labels = torch.zeros(1, 24, 20, dtype=torch.int16)
        image = transforms(image=three_equal_frames(seed), segmentation=labels)["image"]
        assert torch.equal(image[:CHANNELS], image[CHANNELS : 2 * CHANNELS])
        assert torch.equal(image[:CHANNELS], image[2 * CHANNELS :])


def test_nothing_but_intensity_transforms_is_touched():
    transforms = nnunet_transforms()
    before = copy.copy(transforms.transforms)
    synchronise_frames(transforms, CHANNELS)
    assert transforms.transforms == before
    wrapped = [t for t in before if isinstance(getattr(t, "transform", None), OneDrawForAllFrames)]
    assert len(wrapped) == 7  # noise, blur, brightness, contrast, low resolution, gamma twice


def test_transforms_within_others_are_synchronised_too():
    """As in nnU-Net's DA5, which chooses one of several."""
    inner = intensity_transforms(nnunet_transforms())[2]  # brightness
    nested = ComposeTransforms([OneOfTransform([ComposeTransforms([RandomTransform(inner)]), inner]), inner])
    synchronise_frames(nested, CHANNELS)
    chosen, alone = nested.transforms
    assert alone is inner  # which is not random: what nnU-Net does to every sample
    for seed in range(10):
        image = chosen(image=three_equal_frames(seed))["image"].unflatten(0, (3, CHANNELS))
        assert torch.equal(image[0], image[1])
