"""Hypoperfused lesions of a Tmax map: threshold, artefact removal, minimum volume."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, label

THRESHOLDS_S = (4.0, 6.0, 8.0, 10.0)
STAGES = ("threshold", "rim", "small parts")


def segment(tmax: np.ndarray, mask: np.ndarray, voxel_mm: Sequence[float], **rules: float) -> np.ndarray:
    """Segment the hypoperfused area of a Tmax map without a rater: the last of :func:`segmentation_stages`.

    Args:
        tmax: (x, y, z) Tmax in s.
        mask: (x, y, z) brain mask.
        voxel_mm: size of a voxel along each axis, mm.
        rules: as in :func:`segmentation_stages`.

    Returns:
        (x, y, z) bool lesion mask, all False where there is no lesion.

    Raises:
        ValueError: shapes that differ, or a negative setting.
    """
    return list(segmentation_stages(tmax, mask, voxel_mm, **rules).values())[-1]


def segmentation_stages(
    tmax: np.ndarray,
    mask: np.ndarray,
    voxel_mm: Sequence[float],
    *,
    threshold_s: float = 6.0,
    erosion_mm: float = 4.0,
    minimum_ml: float = 1.0,
) -> dict[str, np.ndarray]:
    """Segment the hypoperfused area step by step and return the mask after each step.

    The paper thresholds at 6 s, then a rater removes by hand the parts outside the hypoperfused area. Here rules
    replace the rater (assumption). Within ``erosion_mm`` of the brain's surface partial volume with CSF and sinuses
    gives false delays: there a candidate counts only if another one lies within that distance of it further inside, as
    in the cortex of a lesion. Connected components (26 neighbours) smaller than ``minimum_ml`` are removed.

    Args:
        tmax: (x, y, z) Tmax in s.
        mask: (x, y, z) brain mask.
        voxel_mm: size of a voxel along each axis, mm.
        threshold_s: voxels above this value are candidates.
        erosion_mm: width of the brain's rim, in which candidates alone are left out; 0 keeps all.
        minimum_ml: smallest component kept; 0 keeps all.

    Returns:
        For each of :data:`STAGES` the (x, y, z) bool mask after it: above the threshold, without candidates in the rim
        alone, without small parts. Each lies inside the one before.

    Raises:
        ValueError: shapes that differ, or a negative setting.
    """
    tmax, mask, size_mm = np.asarray(tmax), np.asarray(mask, dtype=bool), np.asarray(voxel_mm, dtype=float)
    if tmax.shape != mask.shape or tmax.ndim != 3 or size_mm.shape != (3,):
        raise ValueError(
            f"Tmax of shape {tmax.shape}, mask {mask.shape}, {size_mm.size} voxel sizes: "
            "give two equal 3D shapes and three sizes"
        )
    if min(erosion_mm, minimum_ml) < 0 or size_mm.min() <= 0:
        raise ValueError("a length or volume is negative; give 0 to switch a step off, and positive voxel sizes")
    late = (tmax > threshold_s) & mask
    deep = late & erode(mask, voxel_mm, erosion_mm)
    inner = late & dilate(deep, voxel_mm, erosion_mm)
    return dict(zip(STAGES, (late, inner, without_small_parts(inner, voxel_mm, minimum_ml)), strict=True))


def without_small_parts(lesion: np.ndarray, voxel_mm: Sequence[float], minimum_ml: float) -> np.ndarray:
    """Keep the connected components (26 neighbours) of a mask that have at least ``minimum_ml``; 0 keeps all."""
    if not minimum_ml:
        return lesion
    parts, _ = label(lesion, structure=np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel()) * math.prod(voxel_mm) / 1000 >= minimum_ml
    large[0] = False  # the background
    return large[parts]


def hypoperfusion_intensity_ratio(tmax: np.ndarray, lesion: np.ndarray, *, severe_s: float = 10.0) -> float:
    """Compute the share of a lesion with Tmax above ``severe_s``; low means good collaterals, nan no lesion.

    Olivot et al. 2014 (PMC4047639): volume of Tmax > 10 s over that of Tmax > 6 s, median .4 in their patients.

    >>> hypoperfusion_intensity_ratio(np.array([7.0, 11.0, 12.0, 3.0]), np.array([True, True, False, False]))
    0.5
    """
    late = np.asarray(tmax)[np.asarray(lesion, dtype=bool)]
    return float(np.mean(late > severe_s)) if late.size else math.nan


def volume_ml(lesion: np.ndarray, voxel_mm: Sequence[float]) -> float:
    """Compute the volume of a mask in ml."""
    return float(np.count_nonzero(lesion) * math.prod(voxel_mm) / 1000)


def erode(mask: np.ndarray, voxel_mm: Sequence[float], radius_mm: float) -> np.ndarray:
    """Remove the rim of a mask: voxels whose centre lies within ``radius_mm`` of the centre of a voxel outside.

    Lengths are true millimetres, so a radius below the size of a voxel removes nothing along that axis. Beyond the edge
    of the volume is outside, too.
    """
    if radius_mm == 0 or not mask.any():
        return mask.copy()
    return distance_transform_edt(np.pad(mask, 1), sampling=voxel_mm)[1:-1, 1:-1, 1:-1] > radius_mm


def dilate(mask: np.ndarray, voxel_mm: Sequence[float], radius_mm: float) -> np.ndarray:
    """Grow a mask by ``radius_mm``, in true millimetres; the counterpart of :func:`erode`."""
    if radius_mm == 0 or not mask.any():
        return mask.copy()
    return distance_transform_edt(~mask, sampling=voxel_mm) <= radius_mm
