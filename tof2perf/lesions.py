"""Hypoperfused lesions: Tmax segmentation, overlap, volume, side, and the summary over patients."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from tof2perf.metrics import bootstrap_interval


def segment(
    tmax: np.ndarray,
    mask: np.ndarray,
    voxel_mm: Sequence[float],
    *,
    threshold_s: float = 6.0,
    erosion_mm: float = 4.0,
    minimum_ml: float = 1.0,
    smoothing_mm: float = 0.0,
    opening_mm: float = 0.0,
) -> np.ndarray:
    """Segment the hypoperfused area of a Tmax map without a rater.

    The paper thresholds at 6 s, then a rater removes what lies outside the hypoperfused area by hand. Here rules take
    the rater's place (assumption): nothing counts within ``erosion_mm`` of the brain's surface, where partial volume
    with CSF and sinuses gives false delays; parts narrower than twice ``opening_mm`` and connected components (26
    neighbours) smaller than ``minimum_ml`` are removed.

    Args:
        tmax: (x, y, z) Tmax in s.
        mask: (x, y, z) brain mask.
        voxel_mm: size of a voxel along each axis, mm.
        threshold_s: voxels above this value are candidates.
        erosion_mm: width of the rim of the brain that is left out; 0 keeps all.
        minimum_ml: smallest component kept; 0 keeps all.
        smoothing_mm: full width at half maximum of a Gaussian applied inside the brain before the threshold; 0 is off.
        opening_mm: radius of a morphological opening; 0 is off.

    Returns:
        (x, y, z) bool lesion mask, all False where there is no lesion.

    Raises:
        ValueError: shapes that differ, or a negative setting.
    """
    tmax, mask, size_mm = np.asarray(tmax), np.asarray(mask, dtype=bool), np.asarray(voxel_mm, dtype=float)
    if tmax.shape != mask.shape or tmax.ndim != 3 or size_mm.shape != (3,):
        raise ValueError(
            f"Tmax of shape {tmax.shape}, mask {mask.shape}, {size_mm.size} voxel sizes: "
            "give two equal 3D shapes and three sizes"
        )
    if min(erosion_mm, minimum_ml, smoothing_mm, opening_mm) < 0 or size_mm.min() <= 0:
        raise ValueError("a length or volume is negative; give 0 to switch a step off, and positive voxel sizes")
    if smoothing_mm:
        tmax = _smooth_inside(tmax, mask, smoothing_mm / (2 * math.sqrt(2 * math.log(2))) / size_mm)
    lesion = (tmax > threshold_s) & erode(mask, voxel_mm, erosion_mm)
    if opening_mm:
        lesion = dilate(erode(lesion, voxel_mm, opening_mm), voxel_mm, opening_mm) & lesion
    if minimum_ml:
        parts, _ = label(lesion, structure=np.ones((3, 3, 3)))
        large = np.bincount(parts.ravel()) * size_mm.prod() / 1000 >= minimum_ml
        large[0] = False  # the background
        lesion = large[parts]
    return lesion


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


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks; nan where both are empty, because then there is nothing to agree on.

    Raises:
        ValueError: shapes that differ.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"masks of shape {first.shape} and {second.shape}: bring both to one grid")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2 * np.count_nonzero(first & second) / total) if total else math.nan


def volume_ml(lesion: np.ndarray, voxel_mm: Sequence[float]) -> float:
    """Volume of a mask in ml."""
    return float(np.count_nonzero(lesion) * math.prod(voxel_mm) / 1000)


def left_right_axis(affine: np.ndarray) -> int:
    """The array axis that runs most nearly from left to right in the world of the (4, 4) affine."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.abs(directions[0]).argmax())


def hemispheres(mask: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Split a brain at its mid-sagittal plane, tilted as the head is.

    Each line of voxels along ``axis`` has its own middle of the brain; the plane is the least-squares fit to those
    middles, weighted with the length of the line, so that long lines through the brain count more than its rim.

    Args:
        mask: (x, y, z) brain mask.
        axis: the left-right axis.

    Returns:
        (x, y, z) int8: -1 on the side of low indices, 1 on the other, 0 within half a voxel of the plane.

    Raises:
        ValueError: an empty mask.
    """
    brain = np.moveaxis(np.asarray(mask, dtype=bool), axis, 0)  # (left-right, b, c)
    if not brain.any():
        raise ValueError("the brain mask is empty, it has no mid-sagittal plane; give one with at least one voxel")
    places = np.arange(brain.shape[0])[:, None, None]
    length = brain.sum(axis=0)  # (b, c)
    middle = (brain * places).sum(axis=0) / np.maximum(length, 1)
    b, c = np.indices(length.shape)
    design = np.stack([np.ones_like(middle), b - b.mean(), c - c.mean()], axis=-1)  # (b, c, 3)
    weight = length[..., None].astype(float)
    plane = np.linalg.lstsq((design * weight).reshape(-1, 3), (middle * length).ravel(), rcond=None)[0]
    offset = places - design @ plane
    return np.moveaxis(np.where(np.abs(offset) < 0.5, 0, np.sign(offset)), 0, axis).astype(np.int8)


def laterality(real: np.ndarray, generated: np.ndarray, mask: np.ndarray, *, axis: int = 0) -> str:
    """On which side the generated lesion lies, relative to the real one.

    Args:
        real: (x, y, z) lesion mask of the real map.
        generated: (x, y, z) lesion mask of the generated map.
        mask: (x, y, z) brain mask, which gives the mid-sagittal plane.
        axis: the left-right axis (:func:`left_right_axis`).

    Returns:
        ``contralateral`` if most of the generated lesion lies on the other side than most of the real one;
        ``ipsilateral`` if on the same; ``none`` if a lesion is missing or lies in equal parts on both sides.
    """
    sides = hemispheres(mask, axis=axis)
    balance = [int(sides[np.asarray(lesion, dtype=bool)].sum(dtype=np.int64)) for lesion in (real, generated)]
    product = balance[0] * balance[1]
    return "none" if product == 0 else "ipsilateral" if product > 0 else "contralateral"


def compare(
    real: np.ndarray, generated: np.ndarray, mask: np.ndarray, voxel_mm: Sequence[float], *, axis: int = 0
) -> dict[str, float | str | bool]:
    """All that is reported of one patient's two lesion masks.

    Returns:
        ``dice`` (nan without a real lesion, as such patients are excluded), ``real_ml``, ``generated_ml``,
        ``laterality`` and ``excluded``, True without a real lesion (the paper's exclusion rule).
    """
    excluded = not np.any(real)
    return {
        "dice": math.nan if excluded else dice(real, generated),
        "real_ml": volume_ml(real, voxel_mm),
        "generated_ml": volume_ml(generated, voxel_mm),
        "laterality": laterality(real, generated, mask, axis=axis),
        "excluded": excluded,
    }


def summarise(
    scores: Sequence[float], sides: Sequence[str], rng: np.random.Generator, *, resamples: int = 10_000
) -> dict[str, float | int | None]:
    """Summarise Dice over patients as the paper does, with the interval it lacks.

    Args:
        scores: Dice of each patient; nan marks a patient without a real lesion, who is excluded and counted.
        sides: :func:`laterality` of each patient.
        rng: draws the bootstrap resamples.
        resamples: number of bootstrap resamples over patients.

    Returns:
        ``patients``, ``excluded``, ``analysed``, ``contralateral``, ``missed`` (Dice 0 without being contralateral),
        ``median``, ``mean``, ``quartile_25``, ``quartile_75``, ``median_low``, ``median_high`` (bootstrap 95 %
        interval). What cannot be computed from so few patients is None.
    """
    dices = np.asarray(scores, dtype=np.float64)
    analysed = ~np.isnan(dices)
    values = dices[analysed]
    low, high = bootstrap_interval(values, rng, statistic=np.median, resamples=resamples)
    numbers: dict[str, float | None] = dict.fromkeys(("median", "mean", "quartile_25", "quartile_75"))
    if values.size:
        numbers["mean"] = values.mean()
        numbers["quartile_25"], numbers["median"], numbers["quartile_75"] = np.percentile(values, [25, 50, 75])
    numbers |= {"median_low": low, "median_high": high}
    contralateral = analysed & (np.asarray(sides) == "contralateral")
    return {
        "patients": dices.size,
        "excluded": int((~analysed).sum()),
        "analysed": int(values.size),
        "contralateral": int(contralateral.sum()),
        "missed": int(((dices == 0) & ~contralateral).sum()),
        **{key: None if value is None or math.isnan(value) else float(value) for key, value in numbers.items()},
    }


def _smooth_inside(values: np.ndarray, mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian smoothing that takes nothing from outside the mask (normalised convolution)."""
    weight = gaussian_filter(mask.astype(np.float32), sigma)
    smooth = gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma)
    return np.where(mask, smooth / np.maximum(weight, 1e-6), 0)
