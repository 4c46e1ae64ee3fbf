"""Metrics on masks whose values are known, or found by brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from nnunetv2_salstm.evaluation.metrics import Labels, Scores, score

ONE = Labels({"organ": (1,)})


def scores(prediction, reference, spacing=(1.0, 1.0, 1.0), labels=ONE, tolerance=2.0):
    return score(prediction, reference, spacing, labels, dict.fromkeys(labels.values, tolerance))


def box(*slices, shape=(12, 14, 16), value=1):
    image = np.zeros(shape, int)
    image[tuple(slice(*edges) for edges in slices)] = value
    return image


def brute_force_hd95(prediction, reference, spacing):
    """Every surface voxel of one mask against every one of the other."""
    points = []
    for mask in (prediction.astype(bool), reference.astype(bool)):
        padded = np.pad(mask, 1)
        points.append(np.argwhere(padded & ~binary_erosion(padded)) * spacing)
    distances = cdist(*points)
    return max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.25, 0.7)])
def test_surface_distance_is_in_mm(spacing):
    generator = np.random.default_rng(0)
    for _ in range(3):
        images = []
        for _ in range(2):
            starts = generator.integers(0, 5, 3)
            ends = starts + generator.integers(2, 7, 3)
            images.append(box(*zip(starts, ends, strict=True)))
        found = scores(*images, spacing)["organ"]
        assert found.hd95 == pytest.approx(brute_force_hd95(*images, np.array(spacing)), rel=1e-5)


def test_overlap():
    found = scores(box((0, 4), (0, 4), (0, 4)), box((0, 4), (0, 4), (2, 8)))["organ"]
    assert (found.predicted_voxels, found.reference_voxels) == (64, 96)
    assert found.dice == pytest.approx(2 * 32 / 160)
    assert found.iou == pytest.approx(32 / 128)
    assert found.volume_error == pytest.approx(-1 / 3)


def test_equal_masks_are_perfect():
    image = box((2, 7), (3, 9), (0, 16))
    assert scores(image, image)["organ"] == Scores(1.0, 1.0, 0.0, 1.0, 0.0, 480, 480)


@pytest.mark.parametrize(("tolerance", "expected"), [(2.9, False), (3.1, True)])
def test_surface_dice_tolerates_a_shift_up_to_its_tolerance(tolerance, expected):
    # Shifted by one slice of 3 mm.
    pair = box((2, 6), (3, 11), (3, 13)), box((3, 7), (3, 11), (3, 13))
    found = scores(*pair, (3.0, 1.0, 1.0), tolerance=tolerance)["organ"]
    assert (found.nsd == 1) == expected
    assert 0.3 < found.nsd


def test_surface_dice_of_masks_far_apart_is_zero():
    assert scores(box((0, 2), (0, 2), (0, 2)), box((9, 11), (9, 11), (9, 11)))["organ"].nsd == 0


@pytest.mark.parametrize(
    ("predicted", "expected", "result"),
    [
        (False, False, Scores(None, None, None, None, None, 0, 0)),
        (True, False, Scores(0.0, 0.0, math.inf, 0.0, math.inf, 0, 8)),
        (False, True, Scores(0.0, 0.0, math.inf, 0.0, -1.0, 8, 0)),
    ],
)
def test_empty_masks(predicted, expected, result):
    images = [box((4, 6), (4, 6), (4, 6)) if there else np.zeros((12, 14, 16), int) for there in (predicted, expected)]
    assert scores(*images)["organ"] == result


def test_regions_and_the_ignored_label():
    dataset_json = {
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    }
    labels = Labels.of_dataset(dataset_json)
    assert labels == Labels({"whole": (1, 2), "core": (2,)}, ignore=3)
    reference = box((0, 4), (0, 4), (0, 4))
    reference[0:2, 0:4, 0:4] = 2
    reference[8:, :, :] = 3
    prediction = reference.copy()
    prediction[8:, :, :] = 1  # where the reference does not say, nothing counts
    found = scores(prediction, reference, labels=labels)
    assert (found["whole"].dice, found["whole"].reference_voxels, found["core"].reference_voxels) == (1.0, 64, 32)
    prediction[0, 0, 0] = 1
    assert scores(prediction, reference, labels=labels)["whole"].dice == 1
    assert scores(prediction, reference, labels=labels)["core"].dice == pytest.approx(62 / 63)


def test_an_axis_of_one_voxel_is_not_a_surface():
    # nnU-Net's readers give 2D images a first axis, with a spacing of 999.
    pair = box((0, 1), (2, 9), (3, 9), shape=(1, 14, 16)), box((0, 1), (4, 11), (3, 9), shape=(1, 14, 16))
    flat = scores(*pair, (999.0, 0.5, 0.5))["organ"]
    assert flat.hd95 == pytest.approx(1.0)
    assert flat.nsd == 1


def test_background_is_no_label_in_any_spelling():
    for background, organ in itertools.product((0, [0]), (1, [1])):
        assert Labels.of_dataset({"labels": {"background": background, "organ": organ}}) == ONE
