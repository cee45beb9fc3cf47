"""Agreement of real and generated lesions: overlap, side, detection and volume, and their summary over patients."""

import math
from collections.abc import Sequence

import numpy as np

from tof2perf.metrics.lesions import volume_ml
from tof2perf.metrics.statistics import bootstrap_interval
from tof2perf.volumes.hemispheres import hemispheres


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Dice coefficient of two masks; nan if both are empty.

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


def laterality(real: np.ndarray, generated: np.ndarray, mask: np.ndarray, *, axis: int = 0) -> str:
    """Say on which side the generated lesion lies, relative to the real one.

    Args:
        real: (x, y, z) lesion mask of the real map.
        generated: (x, y, z) lesion mask of the generated map.
        mask: (x, y, z) brain mask, which gives the mid-sagittal plane.
        axis: the left-right axis (:func:`tof2perf.volumes.hemispheres.left_right_axis`).

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
    """Compare the two lesion masks of one patient.

    Returns:
        ``dice`` (nan without a real lesion), ``real_ml``, ``generated_ml``; ``excluded``, True without a real lesion
        (the paper's exclusion rule); ``laterality``; and ``outcome``: *detected* if the masks share a voxel;
        *contralateral* or *elsewhere* (same side, or equal parts on both) if the generated lesion misses the real one;
        *missed* without a generated one; without a real one *false alarm* or *rightly none*.
    """
    excluded = not np.any(real)
    side, overlap = laterality(real, generated, mask, axis=axis), dice(real, generated)
    if excluded:
        outcome = "false alarm" if np.any(generated) else "rightly none"
    elif overlap > 0:
        outcome = "detected"
    else:
        outcome = "missed" if not np.any(generated) else "contralateral" if side == "contralateral" else "elsewhere"
    return {
        "dice": math.nan if excluded else overlap,
        "real_ml": volume_ml(real, voxel_mm),
        "generated_ml": volume_ml(generated, voxel_mm),
        "excluded": excluded,
        "laterality": side,
        "outcome": outcome,
    }


def summarise(
    scores: Sequence[float],
    sides: Sequence[str],
    outcomes: Sequence[str],
    rng: np.random.Generator,
    *,
    resamples: int = 10_000,
) -> dict[str, float | int | None]:
    """Summarise Dice over patients as the paper does, with the interval it lacks, and detection.

    Args:
        scores: Dice of each patient; nan marks a patient without a real lesion, who is excluded and counted.
        sides: :func:`laterality` of each patient.
        outcomes: ``outcome`` of each patient, from :func:`compare`.
        rng: draws the bootstrap resamples.
        resamples: number of bootstrap resamples over patients.

    Returns:
        ``patients``, ``excluded``, ``analysed``, ``contralateral`` (most of the generated lesion lies on the other
        side, whether or not a rest of it overlaps), the number of analysed patients ``detected`` and ``missed`` (no
        generated lesion at all), the ``false_alarms`` among the excluded; ``median``, ``mean``, ``quartile_25``,
        ``quartile_75``, ``median_low``, ``median_high`` (bootstrap 95 % interval); None with too few patients.
    """
    dices, results = np.asarray(scores, dtype=np.float64), np.asarray(outcomes)
    analysed = ~np.isnan(dices)
    values = dices[analysed]
    low, high = bootstrap_interval(values, rng, statistic=np.median, resamples=resamples)
    numbers: dict[str, float | None] = dict.fromkeys(("median", "mean", "quartile_25", "quartile_75"))
    if values.size:
        numbers["mean"] = values.mean()
        numbers["quartile_25"], numbers["median"], numbers["quartile_75"] = np.percentile(values, [25, 50, 75])
    numbers |= {"median_low": low, "median_high": high}
    return {
        "patients": dices.size,
        "excluded": int((~analysed).sum()),
        "analysed": int(values.size),
        "contralateral": int((analysed & (np.asarray(sides) == "contralateral")).sum()),
        "detected": int((results == "detected").sum()),
        "missed": int((results == "missed").sum()),
        "false_alarms": int((results == "false alarm").sum()),
        **{key: None if value is None or math.isnan(value) else float(value) for key, value in numbers.items()},
    }


def bland_altman(
    real: Sequence[float], generated: Sequence[float], rng: np.random.Generator, *, resamples: int = 10_000
) -> dict[str, float | int | None]:
    """Compute the agreement of two volumes (Bland and Altman 1986, doi 10.1016/S0140-6736(86)90837-8).

    Args:
        real: ml, one a patient.
        generated: ml, the same patients.
        rng: draws the bootstrap resamples.
        resamples: number of bootstrap resamples over patients.

    Returns:
        ``n``; ``bias_ml``, the mean of generated minus real, with its bootstrap 95 % interval ``bias_low``,
        ``bias_high``; the limits of agreement ``lower_ml``, ``upper_ml``, bias -+ 1.96 sample SD. None where there are
        too few patients.

    Raises:
        ValueError: unequal numbers of patients.
    """
    if len(real) != len(generated):
        raise ValueError(f"{len(real)} and {len(generated)} volumes are not pairs; give one of each for every patient")
    difference = np.asarray(generated, dtype=np.float64) - np.asarray(real, dtype=np.float64)
    low, high = bootstrap_interval(difference, rng, resamples=resamples)
    bias = difference.mean() if difference.size else math.nan
    spread = 1.96 * difference.std(ddof=1) if difference.size > 1 else math.nan
    numbers = {
        "bias_ml": bias,
        "bias_low": low,
        "bias_high": high,
        "lower_ml": bias - spread,
        "upper_ml": bias + spread,
    }
    return {"n": difference.size, **{k: None if math.isnan(v) else float(v) for k, v in numbers.items()}}
