"""Lesion segmentation and volumes on hand-made brains."""

import math

import numpy as np
import pytest

from tof2perf.metrics import lesions

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


def test_the_cortex_of_a_lesion_is_kept_where_delays_in_the_rim_alone_are_not(head):
    mask, _, tmax = head
    lesion = mask & ellipsoid(mask.shape, (4, 24, 12), (9, 8, 5))  # reaches the surface
    rim = mask & ~lesions.erode(mask, VOXEL, 4)
    late = np.where(rim | lesion, 15, np.minimum(tmax, 2))
    found = lesions.segment(late, mask, VOXEL, erosion_mm=4, minimum_ml=1)
    assert found[lesion].mean() > 0.95
    beyond = lesions.dilate(lesion, VOXEL, 4)
    assert not (found & ~beyond).any() and (rim & ~beyond).sum() > 500


def test_small_components_are_removed_and_diagonal_neighbours_are_one_component(head):
    mask, _, _ = head
    tmax = np.where(mask, 2.0, 0.0)
    tmax[28, 24, 12] = tmax[29, 25, 13] = 9  # two voxels of 0.012 ml that touch at a corner
    assert lesions.segment(tmax, mask, VOXEL, erosion_mm=0, minimum_ml=0.02).sum() == 2
    assert lesions.segment(tmax, mask, VOXEL, erosion_mm=0, minimum_ml=0.03).sum() == 0


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


def test_a_thousand_voxels_of_a_cubic_millimetre_are_one_millilitre():
    assert lesions.volume_ml(np.ones((10, 10, 10)), (1, 1, 1)) == pytest.approx(1)


def test_every_stage_lies_inside_the_one_before_and_the_last_is_the_lesion(head, rng):
    mask, _, tmax = head
    noisy = np.where(mask, tmax + rng.normal(0, 2.5, tmax.shape), 20)
    noisy[26:29, 22:25, 11:14] = 9  # 0.3 ml
    stages = lesions.segmentation_stages(noisy, mask, VOXEL, erosion_mm=4, minimum_ml=0.5)
    assert tuple(stages) == lesions.STAGES
    before = mask
    for stage in stages.values():
        assert stage.dtype == bool and not (stage & ~before).any() and stage.sum() < before.sum()
        before = stage
    assert np.array_equal(before, lesions.segment(noisy, mask, VOXEL, erosion_mm=4, minimum_ml=0.5))


def test_volumes_fall_with_the_threshold(head, rng):
    mask, patch, tmax = head
    graded = np.where(patch, rng.uniform(3, 14, tmax.shape), tmax)
    volumes = [
        lesions.volume_ml(lesions.segment(graded, mask, VOXEL, threshold_s=t, erosion_mm=0, minimum_ml=0), VOXEL)
        for t in lesions.THRESHOLDS_S
    ]
    assert volumes == sorted(volumes, reverse=True) and volumes[-1] > 0


def test_the_hypoperfusion_intensity_ratio_is_a_share_of_the_lesion(head):
    _, patch, tmax = head
    severe = patch.copy()
    severe[:, :24] = False
    mixed = np.where(severe, 12.0, tmax)
    assert lesions.hypoperfusion_intensity_ratio(mixed, patch) == pytest.approx(severe.sum() / patch.sum())
    assert math.isnan(lesions.hypoperfusion_intensity_ratio(mixed, np.zeros_like(patch)))
