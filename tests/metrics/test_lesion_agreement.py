"""Overlap, side, detection and volume of lesions on hand-made brains."""

import math

import numpy as np
import pytest

from tof2perf.metrics import lesion_agreement

VOXEL = (2.0, 2.0, 3.0)  # mm


def ellipsoid(shape, centre, radii):
    grid = np.indices(shape)
    return sum(((grid[i] - centre[i]) / radii[i]) ** 2 for i in range(3)) < 1


@pytest.fixture
def head():
    """A brain with a round patch of Tmax 9 s on the low-index side; healthy tissue has 2 s."""
    shape = (40, 48, 24)
    mask = ellipsoid(shape, (20, 24, 12), (17, 21, 10))
    patch = ellipsoid(shape, (12, 24, 12), (5, 6, 4))
    return mask, patch, np.where(mask, np.where(patch, 9.0, 2.0), 0.0).astype(np.float32)


def test_dice_of_a_mask_with_itself_is_one_and_symmetric(rng):
    first, second = rng.random((2, 6, 6, 6)) < 0.4
    assert lesion_agreement.dice(first, first) == 1
    assert lesion_agreement.dice(first, second) == lesion_agreement.dice(second, first)
    assert lesion_agreement.dice(first, ~first) == 0


def test_dice_of_empty_masks_is_defined():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert math.isnan(lesion_agreement.dice(empty, empty))
    assert lesion_agreement.dice(empty, full) == lesion_agreement.dice(full, empty) == 0
    with pytest.raises(ValueError, match="one grid"):
        lesion_agreement.dice(empty, full[:2])


def test_dice_golden_value():
    # |A| = 4, |B| = 2, |A and B| = 1: 2 * 1 / 6, by hand.
    assert lesion_agreement.dice(np.array([1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 0])) == pytest.approx(1 / 3)


def test_mirrored_lesion_is_counted_as_contralateral(head):
    mask, patch, _ = head
    mirrored = np.roll(patch[::-1], 1, axis=0)
    assert lesion_agreement.laterality(patch, mirrored, mask) == "contralateral"
    assert lesion_agreement.laterality(patch, patch, mask) == "ipsilateral"
    assert lesion_agreement.laterality(patch, np.zeros_like(patch), mask) == "none"


def test_the_majority_decides_the_side(head):
    mask, patch, _ = head
    small = ellipsoid(mask.shape, (28, 24, 12), (3, 3, 2))
    assert lesion_agreement.laterality(patch, patch | small, mask) == "ipsilateral"
    assert lesion_agreement.laterality(small, patch | small, mask) == "contralateral"


def test_the_side_follows_the_left_right_axis_wherever_it_lies(head):
    mask, patch, _ = head
    mirrored = np.roll(patch[::-1], 1, axis=0)
    turned = [np.moveaxis(volume, 0, 2) for volume in (patch, mirrored, mask)]
    assert lesion_agreement.laterality(*turned, axis=2) == "contralateral"
    assert lesion_agreement.laterality(*turned, axis=0) != "contralateral"


def test_a_patient_without_a_real_lesion_is_excluded_and_one_without_a_generated_is_not(head):
    mask, patch, _ = head
    empty = np.zeros_like(patch)
    found = lesion_agreement.compare(empty, patch, mask, VOXEL)
    assert found["excluded"] and math.isnan(found["dice"]) and found["generated_ml"] > 0
    assert found["outcome"] == "false alarm"
    missed = lesion_agreement.compare(patch, empty, mask, VOXEL)
    assert not missed["excluded"] and missed["dice"] == 0 and missed["laterality"] == "none"
    assert (
        missed["outcome"] == "missed"
        and lesion_agreement.compare(empty, empty, mask, VOXEL)["outcome"] == "rightly none"
    )
    mirrored = np.roll(patch[::-1], 1, axis=0)
    assert lesion_agreement.compare(patch, mirrored, mask, VOXEL)["outcome"] == "contralateral"
    assert lesion_agreement.compare(patch, np.roll(patch, 12, axis=1), mask, VOXEL)["outcome"] == "elsewhere"
    assert lesion_agreement.compare(patch, patch, mask, VOXEL)["outcome"] == "detected"


def test_the_summary_counts_every_patient_once(rng):
    scores = [0.8, 0.4, 0.0, 0.0, math.nan, 0.6]
    sides = ["ipsilateral", "ipsilateral", "contralateral", "none", "none", "ipsilateral"]
    outcomes = ["detected", "detected", "contralateral", "missed", "false alarm", "detected"]
    found = lesion_agreement.summarise(scores, sides, outcomes, rng, resamples=300)
    assert (found["detected"], found["false_alarms"]) == (3, 1)
    assert (found["patients"], found["excluded"], found["analysed"]) == (6, 1, 5)
    assert (found["contralateral"], found["missed"]) == (1, 1)
    assert (found["median"], found["mean"]) == pytest.approx((0.4, 0.36))
    assert (found["quartile_25"], found["quartile_75"]) == pytest.approx((0.0, 0.6))
    assert found["median_low"] <= found["median"] <= found["median_high"]


@pytest.mark.parametrize("scores", [[], [math.nan, math.nan], [0.5]])
def test_too_few_patients_give_none_and_no_error(rng, scores):
    found = lesion_agreement.summarise(scores, ["none"] * len(scores), ["missed"] * len(scores), rng)
    assert found["median_low"] is None
    assert (found["median"] is None) is (found["analysed"] == 0)


def test_bland_altman_golden_values(rng):
    # Differences 10, -10, 30: mean 10, sample SD 20, limits 10 -+ 39.2, by hand.
    found = lesion_agreement.bland_altman([100, 50, 20], [110, 40, 50], rng, resamples=500)
    assert (found["n"], found["bias_ml"]) == (3, pytest.approx(10))
    assert (found["lower_ml"], found["upper_ml"]) == (pytest.approx(-29.2), pytest.approx(49.2))
    assert -10 <= found["bias_low"] <= 10 <= found["bias_high"] <= 30


def test_one_volume_has_a_bias_but_no_limits(rng):
    found = lesion_agreement.bland_altman([10.0], [12.0], rng)
    assert found["bias_ml"] == 2 and found["upper_ml"] is None and found["bias_low"] is None
    assert lesion_agreement.bland_altman([], [], rng)["bias_ml"] is None
    with pytest.raises(ValueError, match="not pairs"):
        lesion_agreement.bland_altman([1.0], [], rng)
