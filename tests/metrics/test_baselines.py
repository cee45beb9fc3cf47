"""Baselines and mirror images on hand-made brains."""

import numpy as np
import pytest

from tof2perf.metrics import baselines


@pytest.fixture
def brain(rng):
    """A box-shaped brain, a noisy map of it and a lesion on the low-index side."""
    mask = np.zeros((20, 12, 8), bool)
    mask[2:18, 1:11, 1:7] = True
    lesion = np.zeros(mask.shape, bool)
    lesion[4:8, 3:7, 2:5] = True
    return mask, lesion, np.where(mask, rng.uniform(1, 3, mask.shape) + 6 * lesion, 0).astype(np.float32)


def test_a_mean_map_averages_over_the_patients_whose_brain_covers_a_voxel():
    maps = [np.array([[[2.0, 4.0, 0.0]]]), np.array([[[6.0, 0.0, 0.0]]])]
    masks = [np.array([[[1, 1, 0]]]), np.array([[[1, 0, 0]]])]
    assert baselines.mean_map(maps, [np.ones((1, 1, 3))] * 2).tolist() == [[[4, 2, 0]]]
    assert baselines.mean_map(maps, masks).tolist() == [[[4, 4, 4]]]  # the last voxel takes the mean of all, (2+4+6)/3
    assert baselines.mean_value(maps, masks) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least one training map"):
        baselines.mean_map([], [])
    with pytest.raises(ValueError, match="needs brain voxels"):
        baselines.mean_value([], [])


def test_a_mean_map_of_equal_maps_is_that_map(rng):
    values = rng.random((4, 5, 6)).astype(np.float32)
    masks = [np.ones(values.shape)] * 3
    assert np.array_equal(baselines.mean_map((values for _ in range(3)), masks), values)


def test_without_its_lesion_a_map_changes_in_the_lesion_alone_and_there_becomes_the_other_side(brain):
    mask, lesion, real = brain
    found = baselines.without_lesion(real, lesion, mask)
    assert np.array_equal(found[~lesion], real[~lesion])
    assert np.allclose(found[lesion], real[::-1][lesion], atol=1e-5)  # the middle of 2..17 is that of 0..19
    assert np.array_equal(baselines.without_lesion(real, np.zeros_like(lesion), mask), real)


def test_where_both_sides_are_diseased_the_median_of_healthy_tissue_stands(brain):
    mask, lesion, real = brain
    both = lesion | lesion[::-1]
    found = baselines.without_lesion(real, both, mask)
    assert np.allclose(found[both], np.median(real[mask & ~both]))
    with pytest.raises(ValueError, match="no healthy tissue"):
        baselines.without_lesion(real, mask, mask)


def test_a_map_made_symmetric_equals_its_own_mirror_image_and_keeps_its_mean(brain):
    mask, _, real = brain
    found = baselines.symmetric(real, mask)
    assert np.allclose(found, found[::-1], atol=1e-5)
    assert found[mask].mean() == pytest.approx(real[mask].mean(), rel=1e-5)
    assert not found[~mask].any()
