"""A DSC series before its analysis: is it one, where is the head, which frames are no measurement or no baseline?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

HEAD = 0.3  # of the 98th percentile of the mean signal: darker voxels are air (assumption)
# What a series must have at least (assumptions): voxels a side, frames, and frames before the bolus.
FEWEST_VOXELS, FEWEST_FRAMES, FEWEST_BASELINE = 4, 20, 5
LEVEL = 0.1  # of the bolus's depth: the most by which the two halves of a baseline may differ (assumption)
PLAUSIBLE_S = {"RepetitionTime": (0.4, 6.0), "EchoTime": (0.005, 0.1)}  # (assumption)
# A frame is spoilt if nine tenths of the head are brighter, or darker, than in the frames around by this share, or if
# it correlates less with them. In 86 simulated series of heads that moved the extremes were 0.06 and 0.996.
CHANGED, ALIKE = 0.15, 0.9
MOST_SPOILT = 0.1  # of the frames; with more of them a series is refused (assumption)


class PreparedSeries(NamedTuple):
    """A series fit for analysis."""

    frames: np.ndarray  # (x, y, z, time); without the frames cut off at both ends, others replaced
    head: np.ndarray  # (x, y, z) boolean
    baseline: tuple[int, int]  # (first, stop) of ``frames``
    left_out: dict[int, str]  # what is wrong with each frame of the original series that is not used


def prepare_series(series: np.ndarray) -> PreparedSeries:
    """Find head, baseline and spoilt frames of a series (x, y, z, time), and leave out the latter.

    Spoilt frames at either end and frames before the steady state are cut off. A spoilt frame between good ones is
    replaced by the cubic through the two good frames on either side: in simulated patients CBF and the median of Tmax
    changed by less than 2 %. A good series is returned as it is.

    Raises:
        ValueError: too small, axes in another order, no head, no level baseline, reversed in time, or too many spoilt
            frames, or one on the rise of the bolus; the message gives the reason.
    """
    size = f"{series.shape[3]} frames of {' x '.join(map(str, series.shape[:3]))} voxels"
    if min(series.shape[:3]) < FEWEST_VOXELS:
        raise ValueError(f"{size}: at least {FEWEST_VOXELS} voxels a side are needed")
    small = _halve(series)
    change = [np.median(np.moveaxis(np.abs(np.diff(small, axis=k)), k, 0).mean(axis=(1, 2, 3))) for k in range(4)]
    if min(change) < change[3]:
        raise ValueError(
            f"{size}, but time seems to be axis {np.argmin(change) + 1} of 4, along which neighbours are most alike; "
            "store (x, y, z, time)"
        )
    if series.shape[3] < FEWEST_FRAMES:
        raise ValueError(f"{size}: at least {FEWEST_FRAMES} frames are needed")
    head = head_mask(series)
    left_out = _spoilt_frames(small, _halve(head[..., None])[..., 0] > 0.5)
    good = np.setdiff1d(np.arange(series.shape[3]), list(left_out))
    start, end = good[0], good[-1] + 1
    series = series.astype(np.float32) if left_out else series
    for frame in (frame for frame in left_out if start < frame < end):
        near = np.sort(good[np.argsort(np.abs(good - frame), kind="stable")[:4]])
        series[..., frame] = CubicSpline(near, series[..., near], axis=3)(frame)
    curve = series[head].mean(axis=0)[start:end]
    if _is_reversed(curve):
        raise ValueError(
            "the series seems reversed in time: the signal falls slowly and rises fast; reverse the frames"
        )
    first, stop = find_baseline(curve)
    for frame, why in left_out.items():
        if stop <= frame - start <= curve.argmin() + 1:
            raise ValueError(f"frame {frame} ({why}) lies on the rise of the bolus, where nothing can replace it")
    left_out |= {int(start) + k: "brighter than the steady state" for k in range(first)}
    frames = series if (start + first, end) == (0, series.shape[3]) else series[..., start + first : end]
    return PreparedSeries(frames, head, (0, stop - first), dict(sorted(left_out.items())))


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

    Raises:
        ValueError: fewer than FEWEST_BASELINE frames lie before the bolus, or they are not level.
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
    if stop - first < FEWEST_BASELINE:
        raise ValueError(
            f"no baseline: {stop - first} frames before the bolus, at least {FEWEST_BASELINE} are needed; give "
            "baseline=(first, stop), or a series that begins earlier"
        )
    halves = np.array_split(curve[first:stop], 2)
    if (step := abs(halves[0].mean() - halves[1].mean())) > LEVEL * (level - curve[lowest]):
        raise ValueError(f"no level baseline: the signal before the bolus changes by {step / level:.0%}")
    return first, stop


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return `values` as float32; ValueError where one is NaN or infinite."""
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values: repair or mask them before the perfusion analysis")
    return values


def choose_time(name: str, stated: Mapping[str, Any], default: float | None) -> float:
    """Take a time in s from the first source that states it.

    Args:
        name: RepetitionTime or EchoTime.
        stated: value by source, None where a source states nothing.
        default: the profile's, used if no source states the time; it may differ from them.

    Raises:
        ValueError: the time is given nowhere or not plausible, or sources differ by more than 1 %; every source is
            named with its value.
    """
    known = {source: value for source, value in stated.items() if value is not None}
    if not known and default is None:
        raise ValueError(f"{name} is given nowhere")
    known = known or {"the profile": default}
    text = ", ".join(f"{value!r} in {source}" for source, value in known.items())
    low, high = PLAUSIBLE_S[name]
    if not all(isinstance(value, int | float) and low <= value <= high for value in known.values()):
        raise ValueError(f"{name} is {text}: it must be given in s, between {low:g} and {high:g}")
    first, *others = known.values()
    if any(abs(other / first - 1) > 0.01 for other in others):
        raise ValueError(f"{name} is {text}: correct the one that is wrong")
    return float(first)


def _halve(volumes):
    """Average blocks of 2 x 2 x 2 voxels of (x, y, z, time)."""
    shape = [size // 2 for size in volumes.shape[:3]]
    cut = volumes[: 2 * shape[0], : 2 * shape[1], : 2 * shape[2]]
    return cut.reshape(shape[0], 2, shape[1], 2, shape[2], 2, -1).mean(axis=(1, 3, 5), dtype=np.float32)


def _spoilt_frames(small, head):
    """Say what is wrong with each spoilt frame of (x, y, z, time); after each, the others are compared again."""
    good, spoilt = list(range(small.shape[3])), {}
    copies = [k for k in good[1:] if np.array_equal(small[..., k], small[..., k - 1]) and small[..., k].std() > 0]
    if len(copies) <= MOST_SPOILT * len(good):  # without noise, frames before the bolus are all the same
        spoilt = dict.fromkeys(copies, "a copy of the frame before")
    while True:
        good = [k for k in good if k not in spoilt]
        verdicts = {k: _judge(small, head, good, place) for place, k in enumerate(good)}
        worst = max(verdicts, key=lambda k: verdicts[k][0])
        if verdicts[worst][0] <= 1:
            return spoilt
        spoilt[worst] = verdicts[worst][1]
        if len(spoilt) > MOST_SPOILT * small.shape[3]:
            names = ", ".join(f"{k} ({why})" for k, why in sorted(spoilt.items()))
            raise ValueError(f"too many frames are no measurement: {names} and perhaps more")


def _judge(small, head, good, place):
    """How far a frame differs from the two good frames on either side (1: spoilt from here on), and how."""
    frame = small[..., good[place]]
    near = [k for k in good[max(place - 2, 0) : place + 3] if k != good[place]]
    usual = np.median(small[..., near], axis=-1)
    low, high = np.percentile(frame[head] / np.maximum(usual[head], np.finfo(np.float32).tiny), (10, 90))
    if np.ptp(frame) == 0:
        return np.inf, f"constant, all {frame.flat[0]:g}"
    if high <= 0:
        return np.inf, "negative"
    alike = np.corrcoef(frame.ravel(), usual.ravel())[0, 1]
    return max(
        ((low - 1) / CHANGED, f"brighter than its neighbours, {low:.2f} times or more"),
        ((1 - high) / CHANGED, f"darker than its neighbours, {high:.2f} times or less"),
        ((1 - alike) / (1 - ALIKE), f"unlike its neighbours, correlation {alike:.2f}"),
    )


def _is_reversed(curve):
    """Whether a mean curve (time,) falls more slowly than it rises; 86 simulated ones had a skewness above 0.5."""
    fall = max(np.median(curve[:5]), np.median(curve[-5:])) - curve
    weight = np.where(fall > 0.1 * fall.max(), fall, 0) / max(fall[fall > 0.1 * fall.max()].sum(), 1e-30)
    since = np.arange(len(curve)) - weight @ np.arange(len(curve))
    return weight @ since**3 < -0.3 * (weight @ since**2) ** 1.5
