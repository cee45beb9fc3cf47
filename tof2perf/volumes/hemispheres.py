"""Left and right of a brain: the mid-sagittal plane, its two sides, and maps mirrored in it."""

import numpy as np
from nibabel.orientations import io_orientation
from scipy import ndimage


def left_right_axis(affine: np.ndarray) -> int:
    """The array axis that runs most nearly along left and right in the world of the (4, 4) affine.

    Axes are matched with the world's as in preprocessing (nibabel's closest canonical orientation), so that both agree
    however oblique the scan is.

    >>> left_right_axis(np.diag([2.0, 2.0, 2.0, 1.0]))
    0
    """
    return int(np.flatnonzero(io_orientation(affine)[:, 0] == 0)[0])


def midplane(mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Where the mid-sagittal plane of a brain crosses each line of voxels along ``axis``, tilted as the head is.

    Each line has its own middle of the brain; the plane is the least-squares fit to those middles, weighted with the
    length of the line, so that long lines through the brain count more than its rim.

    Args:
        mask: (x, y, z) brain mask.
        axis: the left-right axis.

    Returns:
        (b, c) index along ``axis``, not rounded; b and c are the other two axes in order.

    Raises:
        ValueError: an empty mask.
    """
    brain = np.moveaxis(np.asarray(mask, dtype=bool), axis, 0)  # (left-right, b, c)
    if not brain.any():
        raise ValueError("the brain mask is empty, it has no mid-sagittal plane; give one with at least one voxel")
    length = brain.sum(axis=0)  # (b, c)
    middle = (brain * np.arange(brain.shape[0])[:, None, None]).sum(axis=0) / np.maximum(length, 1)
    b, c = np.indices(length.shape)
    design = np.stack([np.ones_like(middle), b - b.mean(), c - c.mean()], axis=-1)  # (b, c, 3)
    weight = length[..., None].astype(float)
    plane = np.linalg.lstsq((design * weight).reshape(-1, 3), (middle * length).ravel(), rcond=None)[0]
    return design @ plane


def hemispheres(mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Split a brain at its mid-sagittal plane.

    Args:
        mask: (x, y, z) brain mask.
        axis: the left-right axis.

    Returns:
        (x, y, z) int8: -1 on the side of low indices, 1 on the other, 0 within half a voxel of the plane.

    Raises:
        ValueError: an empty mask.
    """
    count = np.shape(mask)[axis]
    offset = np.arange(count)[:, None, None] - midplane(mask, axis=axis)
    return np.moveaxis(np.where(np.abs(offset) < 0.5, 0, np.sign(offset)), 0, axis).astype(np.int8)


def mirror(volume: np.ndarray, mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Give every brain voxel the value of the voxel opposite to it, by linear interpolation across the plane.

    Each line of voxels along ``axis`` is turned about the point at which the mid-sagittal plane crosses it. Where the
    brain has no counterpart, the value of the brain voxel nearest to the counterpart is taken.

    Args:
        volume: (x, y, z) map.
        mask: (x, y, z) brain mask.
        axis: the left-right axis.

    Returns:
        (x, y, z) float32 map, 0 outside the mask.

    Raises:
        ValueError: shapes that differ, or an empty mask.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.shape != mask.shape:
        raise ValueError(f"map of shape {volume.shape} and mask {mask.shape}: give both on one grid")
    plane = midplane(mask, axis=axis)
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    lines = np.moveaxis(volume[tuple(nearest)], axis, 0)  # (left-right, b, c), the brain's values carried outwards
    opposite = np.clip(2 * plane - np.arange(len(lines))[:, None, None], 0, len(lines) - 1)
    low = np.minimum(opposite.astype(int), max(len(lines) - 2, 0))
    high = np.minimum(low + 1, len(lines) - 1)
    share = (opposite - low).astype(np.float32)
    turned = (1 - share) * np.take_along_axis(lines, low, 0) + share * np.take_along_axis(lines, high, 0)
    return np.where(mask, np.moveaxis(turned, 0, axis), np.float32(0))
