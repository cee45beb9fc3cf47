"""What the values of a map can be: its unit, its scale in a whole cohort, and where it holds no data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tof2perf.maps import MAPS
from tof2perf.volumes.nifti import Finding

# 95th percentile of a map's positive voxels: what one brain can have, in its unit (assumption: wide, units differ by
# 100), and what the middle patient of a cohort has (assumption: a scale factor of 10 leaves the range).
PLAUSIBLE = {"tmax": (0.2, 100.0), "cbf": (5.0, 1000.0), "cbv": (0.5, 100.0), "mtt": (0.5, 100.0), "ttp": (0.3, 200.0)}
TYPICAL = {"tmax": (0.8, 25.0), "cbf": (15.0, 400.0), "cbv": (1.2, 40.0), "mtt": (1.5, 45.0), "ttp": (1.5, 80.0)}
FACTORS = {  # what to multiply by if the map came in another unit
    "s": {"ms": 1e-3, "min": 60.0},
    "ml/100 g/min": {"ml/g/min": 100.0, "ml/g/s": 6000.0},
    "ml/100 g": {"ml/g": 100.0},
}


def top(values: np.ndarray) -> float:
    """Return the 95th percentile of the positive values, 0 if there are none."""
    positive = values[values > 0]
    return float(np.percentile(positive, 95)) if positive.size else 0.0


def find_unit(name: str, values: np.ndarray, path: Path) -> list[Finding]:
    """Report values that belong to another unit than that of the registry, and how many are below 0.

    >>> find_unit("tmax", np.array([0.0, 2000.0, 8000.0]), Path("tmax.nii"))[0].remedy
    'multiply by 0.001'
    """
    findings = []
    if below := np.count_nonzero(values < 0):
        message = f"{below / values.size:.0%} of the voxels ({below}) are below 0: no data, they count as not covered"
        findings.append(Finding(path, message, "set them to 0 if they are background", fatal=False))
    highest = top(values)
    low, high = PLAUSIBLE[name]
    if highest == 0:
        return [*findings, Finding(path, "no value is above 0", "export the map again")]
    if low <= highest <= high:
        return findings
    unit = MAPS[name].unit
    for other, factor in FACTORS[unit].items():
        if low <= highest * factor <= high:
            message = f"values up to {highest:.3g}: looks like {other}, not {unit}"
            return [*findings, Finding(path, message, f"multiply by {factor:g}")]
    remedy = f"convert to {unit}; 95 % should lie in {low:g} to {high:g}"
    return [*findings, Finding(path, f"values up to {highest:.3g} are not {unit}", remedy)]


def find_scale(tops: Mapping[str, Sequence[float]]) -> dict[str, Finding]:
    """Report the maps whose scale is wrong in a whole cohort: a factor that one patient alone might have.

    Args:
        tops: from :func:`top`, of every patient by map.
    """
    found = {}
    for name, values in tops.items():
        middle, (low, high), unit = float(np.median(values)), TYPICAL[name], MAPS[name].unit
        if len(values) >= 3 and not low <= middle <= high:
            message = f"{name} of the middle patient goes up to {middle:.3g} {unit}, expected {low:g} to {high:g}"
            remedy = f"a scale factor is lost, or the unit is not {unit}: convert the map of all patients"
            found[name] = Finding(Path(f"{name} of all patients"), message, remedy)
    return found


def where_measured(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return where maps (x, y, z) of one patient hold data, as bool.

    A voxel has data if any of the maps differs from 0 there, or if it is a hole inside such voxels: a single map may
    well be 0. Values below 0 are no data: no map can have them, and consoles fill the background with them.
    """
    negative = np.any([values < 0 for values in maps], axis=0)
    filled = np.any([values != 0 for values in maps], axis=0) & ~negative
    return ndimage.binary_fill_holes(filled) & ~negative
