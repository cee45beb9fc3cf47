"""Lesion segmentation, overlap and side on hand-made brains."""

import math

import numpy as np
import pytest

from tof2perf import lesions

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


def test_the_patch_above_the_threshold_is_the_lesion(head):
    mask, patch, tmax = head
    found = lesions.segment(tmax, mask, VOXEL, threshold_s=6, erosion_mm=3, minimum_ml=1)
    assert np.array_equal(found, patch)
    assert found.dtype == bool


def test_a_higher_threshold_never_enlarges_the_lesion(head, rng):
    mask, _, tmax = head
    noisy = tmax + rng.normal(0, 2, tmax.shape)
    sizes = [lesions.segment(noisy, mask, VOXEL, threshold_s=t, minimum_ml=0).sum() for t in (4, 6, 8, 10)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_delays_at_the_surface_of_the_brain_are_removed(head):
    mask, patch, tmax = head
    rim = mask & ~lesions.erode(mask, VOXEL, 4)
    found = lesions.segment(np.where(rim, 15, tmax), mask, VOXEL, erosion_mm=4, minimum_ml=1)
    assert np.array_equal(found, patch)
    kept = lesions.segment(np.where(rim, 15, tmax), mask, VOXEL, erosion_mm=0, minimum_ml=1)
    assert np.array_equal(kept, patch | rim)


def test_small_components_are_removed_and_diagonal_neighbours_are_one_component(head):
    mask, _, _ = head
    tmax = np.where(mask, 2.0, 0.0)
    tmax[28, 24, 12] = tmax[29, 25, 13] = 9  # two voxels of 0.012 ml that touch at a corner
    assert lesions.segment(tmax, mask, VOXEL, erosion_mm=0, minimum_ml=0.02).sum() == 2
    assert lesions.segment(tmax, mask, VOXEL, erosion_mm=0, minimum_ml=0.03).sum() == 0


def test_opening_removes_a_thin_bridge_but_not_the_patch(head):
    mask, patch, tmax = head
    bridged = tmax.copy()
    bridged[14:28, 24, 12] = 9
    opened = lesions.segment(bridged, mask, VOXEL, erosion_mm=3, minimum_ml=0, opening_mm=3)
    assert not opened[22:28, 24, 12].any()
    assert lesions.dice(opened, patch) > 0.9


def test_smoothing_takes_nothing_from_outside_the_brain(head):
    mask, _, _ = head
    flat = np.where(mask, 7.0, 0.0)
    found = lesions.segment(flat, mask, VOXEL, erosion_mm=0, minimum_ml=0, smoothing_mm=8)
    assert np.array_equal(found, mask)


def test_without_a_lesion_or_a_brain_the_mask_is_empty(head):
    mask, _, tmax = head
    assert not lesions.segment(np.minimum(tmax, 5), mask, VOXEL).any()
    assert not lesions.segment(tmax, np.zeros_like(mask), VOXEL).any()


def test_erosion_counts_millimetres_not_voxels():
    mask = np.zeros((30, 30, 30), bool)
    mask[5:25, 5:25, 5:25] = True
    eroded = lesions.erode(mask, (1.0, 2.0, 4.0), 4.2)
    left = [np.flatnonzero(eroded.any(axis=tuple({0, 1, 2} - {axis}))).size for axis in range(3)]
    assert left == [12, 16, 18]  # 20 less 2 x 4, 2 x 2 and 2 x 1 voxels
    assert np.array_equal(lesions.erode(mask, VOXEL, 0), mask)


def test_segmentation_refuses_what_does_not_fit(head):
    mask, _, tmax = head
    with pytest.raises(ValueError, match="two equal 3D shapes"):
        lesions.segment(tmax, mask[:-1], VOXEL)
    with pytest.raises(ValueError, match="negative"):
        lesions.segment(tmax, mask, VOXEL, erosion_mm=-1)


def test_dice_of_a_mask_with_itself_is_one_and_symmetric(rng):
    first, second = rng.random((2, 6, 6, 6)) < 0.4
    assert lesions.dice(first, first) == 1
    assert lesions.dice(first, second) == lesions.dice(second, first)
    assert lesions.dice(first, ~first) == 0


def test_dice_of_empty_masks_is_defined():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert math.isnan(lesions.dice(empty, empty))
    assert lesions.dice(empty, full) == lesions.dice(full, empty) == 0
    with pytest.raises(ValueError, match="one grid"):
        lesions.dice(empty, full[:2])


def test_dice_golden_value():
    # |A| = 4, |B| = 2, |A and B| = 1: 2 * 1 / 6, by hand.
    assert lesions.dice(np.array([1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 0])) == pytest.approx(1 / 3)


def test_a_thousand_voxels_of_a_cubic_millimetre_are_one_millilitre():
    assert lesions.volume_ml(np.ones((10, 10, 10)), (1, 1, 1)) == pytest.approx(1)


def test_mirrored_lesion_is_counted_as_contralateral(head):
    mask, patch, _ = head
    mirrored = np.roll(patch[::-1], 1, axis=0)
    assert lesions.laterality(patch, mirrored, mask) == "contralateral"
    assert lesions.laterality(patch, patch, mask) == "ipsilateral"
    assert lesions.laterality(patch, np.zeros_like(patch), mask) == "none"


def test_the_majority_decides_the_side(head):
    mask, patch, _ = head
    small = ellipsoid(mask.shape, (28, 24, 12), (3, 3, 2))
    assert lesions.laterality(patch, patch | small, mask) == "ipsilateral"
    assert lesions.laterality(small, patch | small, mask) == "contralateral"


def test_the_side_follows_the_left_right_axis_wherever_it_lies(head):
    mask, patch, _ = head
    mirrored = np.roll(patch[::-1], 1, axis=0)
    turned = [np.moveaxis(volume, 0, 2) for volume in (patch, mirrored, mask)]
    assert lesions.laterality(*turned, axis=2) == "contralateral"
    assert lesions.laterality(*turned, axis=0) != "contralateral"


def test_the_mid_sagittal_plane_follows_a_tilted_head(head):
    mask, _, _ = head
    sheared, shift = np.zeros((60, *mask.shape[1:]), bool), np.arange(mask.shape[1]) // 4
    for row, by in enumerate(shift):  # the further back, the further to the side
        sheared[4 + by : 44 + by, row] = mask[:, row]
    sides = lesions.hemispheres(sheared)
    for row in (8, 24, 40):
        low, high = (
            np.count_nonzero(sheared[:, row] & (sides[:, row] < 0)),
            np.count_nonzero(sheared[:, row] & (sides[:, row] > 0)),
        )
        assert abs(low - high) < 0.15 * (low + high)


def test_hemispheres_of_a_mirrored_brain_are_the_mirrored_hemispheres(head, rng):
    mask = head[0].copy()
    mask[: rng.integers(4, 8)] = False
    assert np.array_equal(lesions.hemispheres(mask[::-1]), -lesions.hemispheres(mask)[::-1])
    with pytest.raises(ValueError, match="empty"):
        lesions.hemispheres(np.zeros((4, 4, 4)))


@pytest.mark.parametrize(("codes", "axis"), [("RAS", 0), ("LPS", 0), ("AIR", 2), ("SLA", 1)])
def test_the_left_right_axis_is_read_from_the_affine(codes, axis):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(codes):
        row = "LRPAIS".index(letter) // 2
        affine[row, column] = 2.0 if letter in "RAS" else -2.0
    tilt = np.radians(12)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine[:3, :3] = rotation @ affine[:3, :3]
    assert lesions.left_right_axis(affine) == axis


def test_a_patient_without_a_real_lesion_is_excluded_and_one_without_a_generated_is_not(head):
    mask, patch, _ = head
    empty = np.zeros_like(patch)
    found = lesions.compare(empty, patch, mask, VOXEL)
    assert found["excluded"] and math.isnan(found["dice"]) and found["generated_ml"] > 0
    missed = lesions.compare(patch, empty, mask, VOXEL)
    assert not missed["excluded"] and missed["dice"] == 0 and missed["laterality"] == "none"


def test_the_summary_counts_every_patient_once(rng):
    scores = [0.8, 0.4, 0.0, 0.0, math.nan, 0.6]
    sides = ["ipsilateral", "ipsilateral", "contralateral", "none", "none", "ipsilateral"]
    found = lesions.summarise(scores, sides, rng, resamples=300)
    assert (found["patients"], found["excluded"], found["analysed"]) == (6, 1, 5)
    assert (found["contralateral"], found["missed"]) == (1, 1)
    assert (found["median"], found["mean"]) == pytest.approx((0.4, 0.36))
    assert (found["quartile_25"], found["quartile_75"]) == pytest.approx((0.0, 0.6))
    assert found["median_low"] <= found["median"] <= found["median_high"]


@pytest.mark.parametrize("scores", [[], [math.nan, math.nan], [0.5]])
def test_too_few_patients_give_none_and_no_error(rng, scores):
    found = lesions.summarise(scores, ["none"] * len(scores), rng)
    assert found["median_low"] is None
    assert (found["median"] is None) is (found["analysed"] == 0)
