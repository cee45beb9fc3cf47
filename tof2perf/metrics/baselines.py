"""Baselines for the GAN's map: predictors that know less than a TOF shows, or more."""

import math
from collections.abc import Iterable

import numpy as np

from tof2perf.volumes.hemispheres import mirror

NAMES = {
    "gan": "GAN",
    "mean-map": "training mean map",
    "constant": "constant",
    "mirrored": "mirrored truth",
    "lesion-free": "truth without its lesion",
    "gan-symmetric": "GAN, made symmetric",
    "oracle": "oracle",
}


def mean_map(maps: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> np.ndarray:
    """Average the training maps voxel by voxel: the best guess without looking at the patient.

    Args:
        maps: (x, y, z) maps on one grid, one a patient; read one by one, so a generator saves memory.
        masks: their brain masks. A voxel's mean is over the patients whose brain covers it; voxels that no brain covers
            take the mean over all brain voxels.

    Returns:
        (x, y, z) float32 map.

    Raises:
        ValueError: no maps, or not one mask a map.
    """
    total = weight = np.zeros(0)
    for values, mask in zip(maps, masks, strict=True):
        inside = np.asarray(mask, dtype=bool)
        if not total.size:
            total, weight = np.zeros(values.shape), np.zeros(values.shape)
        total += np.where(inside, values, 0)
        weight += inside
    if not total.size:
        raise ValueError("a mean map needs at least one training map; assign patients to the training split")
    overall = total.sum() / max(weight.sum(), 1)
    return np.where(weight > 0, total / np.maximum(weight, 1), overall).astype(np.float32)


def mean_value(maps: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> float:
    """Average all brain voxels of the training maps: the constant baseline, in the maps' unit.

    Raises:
        ValueError: no brain voxels at all, or not one mask a map.
    """
    total, count = 0.0, 0
    for values, mask in zip(maps, masks, strict=True):
        inside = values[np.asarray(mask, dtype=bool)]
        total += float(inside.sum(dtype=np.float64))
        count += inside.size
    if not count:
        raise ValueError("the constant baseline needs brain voxels; assign patients to the training split")
    return total / count


def without_lesion(real: np.ndarray, lesion: np.ndarray, mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Replace the lesion of a real map by the other side of the same brain.

    Where the other side is diseased as well, the median of the brain outside lesion and mirrored lesion is used.

    Args:
        real: (x, y, z) map from DSC.
        lesion: (x, y, z) lesion mask.
        mask: (x, y, z) brain mask.
        axis: the left-right axis.

    Returns:
        (x, y, z) float32 map, equal to ``real`` outside the lesion; a map without a lesion comes back as it is.
    """
    real, lesion = np.asarray(real, dtype=np.float32), np.asarray(lesion, dtype=bool)
    if not lesion.any():
        return real.copy()
    opposite = mirror(lesion, mask, axis=axis) > 0.5
    healthy = real[np.asarray(mask, dtype=bool) & ~lesion & ~opposite]
    usual = float(np.median(healthy)) if healthy.size else math.nan
    if math.isnan(usual):
        raise ValueError("the lesion and its mirror image fill the brain, no healthy tissue is left to take its place")
    filled = np.where(opposite, np.float32(usual), mirror(real, mask, axis=axis))
    return np.where(lesion, filled, real)


def symmetric(values: np.ndarray, mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Average a map and its mirror image (x, y, z), which removes every difference of the sides; 0 outside the mask."""
    return np.where(mask, (np.asarray(values, dtype=np.float32) + mirror(values, mask, axis=axis)) / 2, np.float32(0))
