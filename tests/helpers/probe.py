"""A linear probe: whether a ridge classifier can tell two kinds of volumes apart."""

import numpy as np


def pooled(tofs: np.ndarray, *, mirrored: bool, blocks: tuple[int, int, int] = (6, 6, 4)) -> np.ndarray:
    """Reduce TOFs to three features a block of voxels: how far it is brighter or darker than tissue, and its mean.

    Each of the three kinds has the same variance, so that dark spaces count as much as bright vessels.

    Args:
        tofs: (volumes, x, y, z), left to right along x.
        mirrored: give the difference to the opposite block in place of the value.
        blocks: how many along each axis.

    Returns:
        (volumes, features), their means over volumes 0.
    """
    tissue = np.array([np.median(tof[tof > 0.5 * np.percentile(tof, 90)]) for tof in tofs])
    tofs = tofs / tissue[:, None, None, None]
    kinds = []
    for values in (np.maximum(tofs - 1.2, 0.0), np.maximum(0.8 - tofs, 0.0), tofs):
        for axis, count in enumerate(blocks, start=1):
            values = np.stack([part.mean(axis=axis) for part in np.array_split(values, count, axis=axis)], axis=axis)
        values = (values - values[:, ::-1] if mirrored else values).reshape(len(tofs), -1)
        values = values - values.mean(axis=0)
        kinds.append(values / values.std())
    return np.concatenate(kinds, axis=1)


def probe(features: np.ndarray, labels: np.ndarray, *, ridge: float = 0.3) -> np.ndarray:
    """Tell for each volume (volumes,) whether a ridge classifier fitted to all others is right about it.

    Args:
        features: (volumes, features).
        labels: (volumes,) bool; both classes count alike in the fit.
        ridge: penalty over the mean square of a volume's features.
    """
    weight = np.where(labels, (~labels).mean(), labels.mean())
    target = np.where(labels, 1.0, -1.0)
    gram = features @ features.T
    gram /= gram.trace() / len(gram)
    right = np.zeros(len(labels), dtype=bool)
    for one in range(len(labels)):
        rest = np.arange(len(labels)) != one
        known = gram[np.ix_(rest, rest)] + np.diag(ridge / weight[rest])
        right[one] = (gram[one, rest] @ np.linalg.solve(known, target[rest])) * target[one] > 0
    return right
