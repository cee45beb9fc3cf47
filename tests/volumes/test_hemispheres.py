"""The two sides of a brain on hand-made heads."""

import numpy as np
import pytest

from tof2perf.volumes import hemispheres


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


def test_the_mid_sagittal_plane_follows_a_tilted_head(head):
    mask, _, _ = head
    sheared, shift = np.zeros((60, *mask.shape[1:]), bool), np.arange(mask.shape[1]) // 4
    for row, by in enumerate(shift):  # the further back, the further to the side
        sheared[4 + by : 44 + by, row] = mask[:, row]
    sides = hemispheres.hemispheres(sheared)
    for row in (8, 24, 40):
        low, high = (
            np.count_nonzero(sheared[:, row] & (sides[:, row] < 0)),
            np.count_nonzero(sheared[:, row] & (sides[:, row] > 0)),
        )
        assert abs(low - high) < 0.15 * (low + high)


def test_hemispheres_of_a_mirrored_brain_are_the_mirrored_hemispheres(head, rng):
    mask = head[0].copy()
    mask[: rng.integers(4, 8)] = False
    assert np.array_equal(hemispheres.hemispheres(mask[::-1]), -hemispheres.hemispheres(mask)[::-1])
    with pytest.raises(ValueError, match="empty"):
        hemispheres.hemispheres(np.zeros((4, 4, 4)))


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
    assert hemispheres.left_right_axis(affine) == axis


def test_mirroring_twice_gives_a_symmetric_head_back(head, rng):
    mask = head[0]
    values = np.where(mask, rng.random(mask.shape), 0).astype(np.float32)
    twice = hemispheres.mirror(hemispheres.mirror(values, mask), mask)
    assert np.abs(twice - values).max() < 1e-5
    assert not hemispheres.mirror(values + 5, mask)[~mask].any()


def test_what_lies_left_is_found_right_at_the_same_distance_from_the_plane(head):
    mask, patch, tmax = head
    turned = hemispheres.mirror(tmax, mask)
    assert np.array_equal(turned > 6, np.roll(patch[::-1], 1, axis=0))
    moved = [np.moveaxis(volume, 0, 2) for volume in (tmax, mask)]
    assert np.array_equal(np.moveaxis(hemispheres.mirror(*moved, axis=2), 2, 0), turned)


def test_mirroring_follows_a_tilted_head():
    mask = np.zeros((60, 20, 5), bool)
    marker = np.zeros(mask.shape)
    for row in range(20):  # the head moves by half a voxel a row; its middle is at 30 + row / 2
        mask[10 + (row + 1) // 2 : 51 + row // 2, row] = True
        marker[20 + row // 2, row] = 1.0
    found = hemispheres.mirror(marker, mask)
    for row in (2, 10, 18):
        assert np.argmax(found[:, row, 2]) == 40 + row // 2


def test_tissue_without_a_counterpart_takes_the_nearest_brain_and_never_the_background(head):
    mask = head[0].copy()
    flat = np.where(mask, 3.0, 0.0)
    mask[:8] = False  # one side is cut off
    assert np.allclose(hemispheres.mirror(np.where(mask, flat, 0), mask)[mask], 3.0)
    with pytest.raises(ValueError, match="on one grid"):
        hemispheres.mirror(flat, mask[:-1])
