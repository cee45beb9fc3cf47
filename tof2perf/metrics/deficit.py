"""Agreement of two maps apart from their scale: rank correlation, ratio to the other side, error in the deficit.

The level of CBF and CBV varies from patient to patient and leaves no trace in a TOF. A map may be right about where
perfusion is low, and by how much relative to healthy tissue, and still be wrong in ml/100 g/min.
"""

import math

import numpy as np
from scipy.stats import spearmanr

from tof2perf.volumes.hemispheres import mirror

RELATIVE = {"spearman": True, "ratio_error": False, "deficit_mae": False}  # True where a high value is good


def relative_metrics(
    real: np.ndarray, generated: np.ndarray, *, mask: np.ndarray, region: np.ndarray, axis: int = 0
) -> dict[str, float]:
    """Compare two maps by measures that do not depend on a patient's level, and in the deficit.

    The ratio is the mean in the deficit over the mean in its mirror image, voxels that lie in both left out; healthy
    is 1. Published ratios of acute deficits (rCBF .32 to .58) have this form (PMC7973621).

    Args:
        real: (x, y, z) map from DSC.
        generated: (x, y, z) map to judge, same unit.
        mask: (x, y, z) brain mask.
        region: (x, y, z) deficit of the real patient, from its Tmax; may be empty.
        axis: the left-right axis.

    Returns:
        ``spearman``, rank correlation over brain voxels (nan for a constant map); ``ratio_real``, ``ratio`` and
        ``ratio_error``, the absolute difference of the two; ``deficit_mae`` and ``deficit_bias``, mean absolute and
        mean error in the region in the map's unit. All but the first are nan without a deficit, the ratios also where
        the deficit lies on both sides alike or its mirror image is 0.

    Raises:
        ValueError: shapes that differ.
    """
    real, generated, mask = np.asarray(real), np.asarray(generated), np.asarray(mask, dtype=bool)
    shapes = [np.shape(volume) for volume in (real, generated, mask, region)]
    if len(set(shapes)) > 1:
        raise ValueError(f"maps, mask and region have the shapes {', '.join(map(str, shapes))}: give all on one grid")
    region = np.asarray(region, dtype=bool) & mask
    error = generated[region].astype(np.float64) - real[region]
    ratios = [side_ratio(values, mask=mask, region=region, axis=axis) for values in (real, generated)]
    return {
        "spearman": spearman(real[mask], generated[mask]),
        "ratio_real": ratios[0],
        "ratio": ratios[1],
        "ratio_error": abs(ratios[1] - ratios[0]),
        "deficit_mae": float(np.abs(error).mean()) if error.size else math.nan,
        "deficit_bias": float(error.mean()) if error.size else math.nan,
    }


def side_ratio(values: np.ndarray, *, mask: np.ndarray, region: np.ndarray, axis: int = 0) -> float:
    """Divide the mean of a map (x, y, z) in a region by its mean in the mirrored region; nan without such a ratio."""
    if not np.any(region):
        return math.nan
    opposite = mirror(region, mask, axis=axis) > 0.5
    sides = values[region & ~opposite], values[opposite & ~region]
    if not all(side.size for side in sides):
        return math.nan
    inside, mirrored = (side.mean(dtype=np.float64) for side in sides)
    return math.nan if abs(mirrored) < 1e-9 else float(inside / mirrored)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Spearman's rank correlation of two samples (n,); nan if either is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(spearmanr(first, second).statistic)
