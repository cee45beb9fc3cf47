"""Predictors compared on the same patients: intervals, tests, and the words that they allow."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

VERDICTS = ("better", "worse", "not distinguishable", "too few patients")


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    *,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Compute the percentile bootstrap 95 % interval of a statistic over patients; (nan, nan) for fewer than two.

    Args:
        values: one number a patient.
        rng: draws the resamples.
        statistic: function with an ``axis`` argument, for instance ``numpy.median``.
        resamples: number of resamples.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return math.nan, math.nan
    drawn = statistic(values[rng.integers(values.size, size=(resamples, values.size))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    first: Sequence[float], second: Sequence[float], rng: np.random.Generator, *, resamples: int = 10_000
) -> dict[str, float]:
    """Compare two predictors on the same patients.

    Args:
        first: one number a patient.
        second: the same patients, in the same order.
        rng: draws the bootstrap resamples.
        resamples: number of resamples.

    Returns:
        ``n``; ``difference``, the mean of first minus second; ``low`` and ``high``, its bootstrap 95 % interval over
        patients; ``p``, two-sided Wilcoxon signed-rank, uncorrected. Interval and p are nan for one patient.

    Raises:
        ValueError: unequal numbers of patients, or a value that is not finite.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} values are not pairs; give one of each for every patient")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("values that are not finite cannot be compared; look for equal or empty maps")
    low, high = bootstrap_interval(difference, rng, resamples=resamples)
    p = math.nan
    if difference.size > 1:
        p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    return {"n": difference.size, "difference": float(difference.mean()), "low": low, "high": high, "p": p}


def compare_with_baselines(
    scores: pd.DataFrame,
    higher_is_better: Mapping[str, bool],
    rng: np.random.Generator,
    *,
    resamples: int = 10_000,
) -> pd.DataFrame:
    """Compare the GAN with every other predictor, metric by metric, on the same patients.

    A pair with a value that is not finite is left out (PSNR of equal maps, rank correlation of a constant map, no
    deficit); ``n`` counts the others. Holm's correction runs over the models (cohort and map).

    Args:
        scores: columns ``participant_id``, ``predictor``, ``cohort``, ``map``, ``convention``, and the metrics.
        higher_is_better: for each metric whether a high value is good.
        rng: draws the bootstrap resamples.
        resamples: number of bootstrap resamples.

    Returns:
        One row a model, convention, metric and baseline (``against``): what :func:`paired_difference` returns,
        ``p_holm``, and in ``gan_is`` the verdict.
    """
    rows = []
    for (cohort, name, convention), group in scores.groupby(["cohort", "map", "convention"], sort=False):
        model = {"cohort": cohort, "map": name, "convention": convention}
        for metric, higher in higher_is_better.items():
            values = group.pivot(index="participant_id", columns="predictor", values=metric)
            for baseline in group.predictor.unique():
                if baseline == "gan":
                    continue
                pairs = values[["gan", baseline]].replace([np.inf, -np.inf], np.nan).dropna()
                pair = {"n": 0} | dict.fromkeys(("difference", "low", "high", "p"), math.nan)
                if len(pairs):
                    pair = paired_difference(pairs["gan"], pairs[baseline], rng, resamples=resamples)
                word = verdict(pair["low"], pair["high"], patients=int(pair["n"]), higher_is_better=higher)
                rows.append({**model, "metric": metric, "against": baseline, **pair, "gan_is": word})
    table = pd.DataFrame(rows)
    corrected = table.groupby(["convention", "metric", "against"]).p.transform(holm)
    table.insert(table.columns.get_loc("gan_is"), "p_holm", corrected)
    return table


def position(
    floor: Sequence[float],
    values: Sequence[float],
    ceiling: Sequence[float],
    rng: np.random.Generator,
    *,
    resamples: int = 10_000,
) -> dict[str, float]:
    """Place a predictor between a floor (0) and a ceiling (1), by means over the same patients.

    The position is (mean - mean floor) / (mean ceiling - mean floor): below 0 for a predictor worse than the floor, and
    the same whether high or low is good.

    Args:
        floor: one number a patient, for instance of the mean map.
        values: the same patients, of the predictor.
        ceiling: the same patients, of the oracle.
        rng: draws the bootstrap resamples over patients.
        resamples: number of resamples.

    Returns:
        ``n``, ``position``, and ``low`` and ``high``, its bootstrap 95 % interval. The three are nan unless the
        interval of the difference between ceiling and floor excludes zero: without a distance there is no position.
    """
    three = np.array([floor, values, ceiling], dtype=np.float64)  # (3, patients)
    three = three[:, np.isfinite(three).all(axis=0)]
    count = three.shape[1]
    unknown = {"n": count} | dict.fromkeys(("position", "low", "high"), math.nan)
    if count < 2:
        return unknown
    means = three[:, rng.integers(count, size=(resamples, count))].mean(axis=2)  # (3, resamples)
    distance = means[2] - means[0]
    if np.prod(np.percentile(distance, [2.5, 97.5])) <= 0:
        return unknown
    low_end, mean, high_end = three.mean(axis=1)
    shares = (means[1] - means[0])[distance != 0] / distance[distance != 0]
    low, high = np.percentile(shares, [2.5, 97.5])
    return {
        "n": count,
        "position": float((mean - low_end) / (high_end - low_end)),
        "low": float(low),
        "high": float(high),
    }


def verdict(low: float, high: float, *, patients: int, higher_is_better: bool) -> str:
    """Return ``better`` or ``worse`` where the interval of the difference excludes zero, else ``not distinguishable``.

    Below six patients it is ``too few patients``: resampling so few gives intervals that are too narrow, and even if
    all of five patients agree, the two-sided signed-rank test cannot fall below 2 / 2^5 = .06.

    >>> verdict(-0.3, -0.1, patients=20, higher_is_better=False)
    'better'
    """
    if patients < 6:
        return "too few patients"
    if low > 0:
        return "better" if higher_is_better else "worse"
    if high < 0:
        return "worse" if higher_is_better else "better"
    return "not distinguishable"


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p values for multiple comparisons (Holm 1979, Scand J Stat 6:65-70); nan stays nan and is not counted.

    >>> [round(float(p), 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected = np.full(values.shape, math.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(order.size, 0, -1)), 1.0)
    return corrected
