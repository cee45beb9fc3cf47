"""A DSC series before its analysis: where the head is, and which frames lie before the bolus."""

import numpy as np
from scipy import ndimage

HEAD = 0.3  # of the 98th percentile of the mean signal: darker voxels are air (assumption)


def head_mask(series: np.ndarray) -> np.ndarray:
    """Mark the head in a series (x, y, z, time): the largest bright region of the mean over time, holes filled.

    Raises:
        ValueError: nothing in the image is as large as a head.
    """
    mean = series.mean(axis=3)
    labels, count = ndimage.label(ndimage.binary_opening(mean > HEAD * np.percentile(mean, 98)))
    if not count:
        raise ValueError("no head was found in the series: check the image")
    return ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)


def find_baseline(curve: np.ndarray) -> tuple[int, int]:
    """Find the frames before the bolus in a mean signal curve: (first, stop).

    The bolus begins after the last frame that lies below the early level by less than 5 % of the largest drop (or three
    standard deviations, if that is more); this frame is left out for safety, as are leading frames brighter than the
    rest, before the magnetisation has settled. Thresholds are assumptions.

    Args:
        curve: (time,) mean signal of the brain.
    """
    curve = finite(curve, "signal")
    lowest = int(curve.argmin())
    early = curve[: max(lowest, 1)]
    level = np.median(early)
    spread = 1.4826 * np.median(np.abs(early - level))
    # The early frames include the slope down; the median ignores it, and a second look without it sharpens the spread.
    quiet = early[early > level - max(5 * spread, 0.05 * (level - curve[lowest]))]
    level, spread = np.median(quiet), 1.4826 * np.median(np.abs(quiet - np.median(quiet)))
    limit = max(3 * spread, 0.05 * (level - curve[lowest]))
    above = np.flatnonzero(early >= level - limit)
    stop = int(above[-1]) if above.size else 0
    first = 0
    while first < stop and curve[first] > level + max(5 * spread, 0.01 * level):
        first += 1
    if stop - first < 2:
        raise ValueError("no baseline: the bolus arrives within the first frames; give baseline=(first, stop)")
    return first, stop


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return `values` as float32; ValueError where one is NaN or infinite."""
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values: repair or mask them before the perfusion analysis")
    return values
