"""The arterial input function: which voxels are arteries, and when the bolus arrives in them."""

import numpy as np
from scipy.cluster.vq import kmeans2

from tof2perf.perfusion.series import finite

FEWEST_VOXELS = 10  # of an automatic AIF: the noise of fewer would be divided into every residue (assumption)
RATER_VOXELS = 4  # in which an AIF is placed by hand; three or four in the paper


def find_aif(
    concentration: np.ndarray, *, tr: float, mask: np.ndarray | None = None, clusters: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Find the arterial input function (Mouridsen 2006, doi 10.1002/mrm.20759).

    Of the curves with the largest 10 % of areas the roughest 25 % are dropped; the rest, scaled to unit area, are
    grouped by k-means. Of the groups of at least FEWEST_VOXELS, the one whose mean curve has the smallest first moment
    is grouped and chosen from once more. Two departures from the paper: roughness, the energy of the second difference,
    is taken outside the bolus, since inside it the sharpest curves, which are the arteries, would be called rough when
    there is little noise; and area and first moment are those of the first passage, since an offset that head motion
    leaves in the late frames would decide otherwise.

    Args:
        concentration: (..., time) in 1/s.
        tr: repetition time in s.
        mask: (...) curves that may be chosen; all by default.
        clusters: number of groups in each round.

    Returns:
        The mean curve (time,) of the chosen voxels, and a boolean array (...) that marks them.
    """
    concentration = finite(concentration, "concentration")
    shape, frames = concentration.shape[:-1], concentration.shape[-1]
    curves = concentration.reshape(-1, frames)
    members = np.arange(len(curves)) if mask is None else np.flatnonzero(np.broadcast_to(mask, shape))
    passage = _passage_end(curves[members].mean(axis=0))
    area = curves[members, :passage].sum(axis=1)
    positive = (area > 0) & (curves[members].sum(axis=1) > 0)
    members, area = members[positive], area[positive]
    if not members.size:
        raise ValueError("no curve has a positive area, so none can be arterial: check the mask and the bolus")
    large = area >= np.quantile(area, 0.9)
    members = members[large]
    unit = curves[members] / (area[large, None] * tr)
    rough = np.square(np.diff(unit, n=2, axis=1))[:, _quiet(unit.mean(axis=0), tr)[1:-1]].sum(axis=1)
    smooth = rough <= np.quantile(rough, 0.75)
    members, unit = members[smooth], unit[smooth]
    for _ in range(2):
        if len(members) < clusters:
            break
        groups = _group(unit, clusters, tr)
        large = np.flatnonzero(np.bincount(groups) >= FEWEST_VOXELS)
        if not large.size:
            break
        mean = {g: unit[groups == g].mean(axis=0)[None, :passage] for g in large}
        moment = {g: _first_moment(curve, tr)[0] for g, curve in mean.items()}
        earliest = groups == min(moment, key=lambda g: moment[g])
        members, unit = members[earliest], unit[earliest]
    chosen = np.zeros(len(curves), dtype=bool)
    chosen[members] = True
    return curves[chosen].mean(axis=0), chosen.reshape(shape)


def place_aif(curves: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Average the curves that a rater would mark: of the voxels with most of the artery, those with the highest peaks.

    The paper's rater marked three or four voxels, minimising partial volume and delay, and looked at the peak.

    Args:
        curves: (voxels, time) in 1/s.
        share: (voxels,) part of each voxel that is the artery.

    Returns:
        The mean curve (time,).
    """
    likely = np.argsort(-share, kind="stable")[: 3 * RATER_VOXELS]
    chosen = likely[np.argsort(-curves[likely].max(axis=1), kind="stable")[:RATER_VOXELS]]
    return curves[chosen].mean(axis=0)


def bolus_arrival(aif: np.ndarray, tr: float) -> float:
    """Time in s at which the AIF last rises through 10 % of its peak before the peak, interpolated linearly."""
    top = int(np.argmax(aif))
    low = 0.1 * aif[top]
    below = np.flatnonzero(aif[:top] < low)
    if not below.size:
        return 0.0
    last = below[-1]
    return float(tr * (last + (low - aif[last]) / (aif[last + 1] - aif[last])))


def _group(curves, clusters, tr):
    """Label each curve by k-means that starts from equal shares ordered by first moment, so no chance enters."""
    order = np.argsort(_first_moment(curves, tr), kind="stable")
    centres = np.stack([curves[share].mean(axis=0) for share in np.array_split(order, clusters)])
    return kmeans2(curves, centres, iter=100, minit="matrix")[1]


def _passage_end(curve):
    """Frame at which a mean curve (time,) has fallen to 30 % of its peak (assumption); its length if it never does."""
    top = int(curve.argmax())
    low = np.flatnonzero(curve[top:] < 0.3 * curve[top])
    return top + int(low[0]) if low.size else len(curve)


def _quiet(curve, tr):
    """Mark the frames at least 5 s away from where a mean curve (time,) exceeds 20 % of its peak; all if too few."""
    reach = int(np.ceil(5 / tr))
    quiet = np.convolve(curve > 0.2 * curve.max(), np.ones(2 * reach + 1), mode="same") == 0
    return quiet if np.count_nonzero(quiet) >= 6 else np.ones(len(curve), dtype=bool)


def _first_moment(curves, tr):
    """Centre of gravity (s) in time of each curve (curves, time); negative samples are noise and count as zero."""
    positive = np.maximum(curves, 0)
    return tr * (positive @ np.arange(curves.shape[1])) / np.maximum(positive.sum(axis=1), np.finfo(np.float32).tiny)
