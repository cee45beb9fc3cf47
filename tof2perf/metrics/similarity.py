"""Similarity of a generated to a real map in two conventions: as the paper computes it and as the field recommends."""

import math

import numpy as np
from scipy.ndimage import uniform_filter

from tof2perf.maps import normalise

METRICS = ("ssim", "psnr", "mae", "nrmse")
CONVENTIONS = ("paper", "brain")
HIGHER_IS_BETTER = {"ssim": True, "psnr": True, "mae": False, "nrmse": False}
WINDOW = 7  # voxels, the default of scikit-image, which the released code used
SLAB = 16  # slices filtered at once: keeps the temporary arrays of a 256 x 256 x 128 volume in the processor's cache


def image_metrics(
    real: np.ndarray, generated: np.ndarray, *, convention: str, mask: np.ndarray | None, data_range: float
) -> dict[str, float]:
    """Measure how similar a generated map is to the real one.

    ``paper`` repeats the paper's released computation: every voxel counts, background included. SSIM is
    two-dimensional, averaged over the slices of axis 0 and rescaled to (SSIM + 1) / 2. Give volumes in the network's
    [-1, 1] scale and a ``data_range`` of 2. The mask is not looked at.

    ``brain`` is what the field recommends: only voxels of the mask count. SSIM is three-dimensional; its map is
    averaged in the mask. Give physical units and as ``data_range`` the width of the map's fixed bounds.

    In both, PSNR is 10 log10(range^2 / MSE) in dB, infinite for equal volumes; MAE has the unit of the volumes; NRMSE
    is the Euclidean one, |generated - real| / |real|, so it depends on where the scale has its zero. It is 0 for equal
    volumes, infinite where the real volume is zero everywhere and the generated one is not.

    Args:
        real: (x, y, z) map from DSC.
        generated: (x, y, z) map to judge.
        convention: ``paper`` or ``brain``.
        mask: (x, y, z) brain mask; may be None for ``paper``.
        data_range: width of the range of possible values, in the unit of the volumes; never guessed from the data.

    Returns:
        ``ssim``, ``psnr``, ``mae`` and ``nrmse``.

    Raises:
        ValueError: unknown convention, unequal shapes, volume not 3D or thinner than 3 voxels, values that are not
            finite, a range that is not positive, or an empty or missing brain mask.

    Source: scikit-image's ``skimage.metrics`` with default arguments; Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention '{convention}': choose one of {', '.join(CONVENTIONS)}")
    real, generated = np.asarray(real), np.asarray(generated)
    _check(real, generated, data_range)
    if convention == "paper":
        similarity = (ssim(real, generated, data_range=data_range, axes=(1, 2)) + 1) / 2
        real, generated = real.ravel(), generated.ravel()
    else:
        if mask is None:
            raise ValueError("convention 'brain' needs a brain mask; give one of the volume's shape")
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != real.shape or not mask.any():
            raise ValueError(
                f"brain mask of shape {mask.shape} with {np.count_nonzero(mask)} voxels does not fit a volume of shape "
                f"{real.shape}; give a mask of that shape with at least one voxel"
            )
        similarity = ssim(real, generated, data_range=data_range, axes=(0, 1, 2), mask=mask)
        real, generated = real[mask], generated[mask]
    difference = np.subtract(generated, real, dtype=np.float64)
    squared = float(difference @ difference) / difference.size
    energy = float(np.einsum("i,i->", real, real, dtype=np.float64)) / real.size
    if squared == 0:
        psnr, nrmse = math.inf, 0.0
    else:
        psnr = 10 * math.log10(data_range**2 / squared)
        nrmse = math.sqrt(squared / energy) if energy > 0 else math.inf
    mae = float(np.abs(difference, out=difference).mean())
    return {"ssim": similarity, "psnr": psnr, "mae": mae, "nrmse": nrmse}


def both_conventions(
    real: np.ndarray, generated: np.ndarray, *, mask: np.ndarray, bounds: tuple[float, float]
) -> dict[str, dict[str, float]]:
    """Compare two maps in physical units by both conventions.

    Values beyond ``bounds`` are clipped to them in both, because the network's scale ends there.

    Args:
        real: (x, y, z) map from DSC in physical units.
        generated: (x, y, z) map to judge in physical units.
        mask: (x, y, z) brain mask.
        bounds: the map's fixed physical range (:data:`tof2perf.maps.MAPS`).

    Returns:
        For each convention the dictionary of :func:`image_metrics`.
    """
    scaled = [normalise(values, bounds) for values in (real, generated)]
    clipped = [np.clip(values, *bounds) for values in (real, generated)]
    return {
        "paper": image_metrics(*scaled, convention="paper", mask=None, data_range=2.0),
        "brain": image_metrics(*clipped, convention="brain", mask=mask, data_range=bounds[1] - bounds[0]),
    }


def ssim(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    data_range: float,
    axes: tuple[int, ...],
    mask: np.ndarray | None = None,
) -> float:
    """Mean structural similarity with a uniform window of 7 voxels along ``axes``.

    A volume thinner than 7 voxels along one of ``axes`` is measured with the widest odd window that fits, 5 or 3.

    Args:
        real: (x, y, z) volume.
        generated: (x, y, z) volume.
        data_range: width of the range of possible values.
        axes: (0, 1, 2) for 3D windows, (1, 2) for the slices of axis 0.
        mask: average over these voxels; None averages over all whose window lies inside the volume.

    Raises:
        ValueError: the volume is thinner than 3 voxels along one of ``axes``.
    """
    thinnest = min(real.shape[axis] for axis in axes)
    if thinnest < 3:
        raise ValueError(f"SSIM needs 3 voxels along each axis, the volume has {real.shape}; use a finer grid")
    window = min(WINDOW, thinnest - (thinnest + 1) % 2)
    pad = window // 2
    if mask is not None:  # nothing further from the mask than half a window matters
        sides = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        box = tuple(slice(max(side[0] - pad, 0), side[-1] + pad + 1) for side in sides)
        real, generated, mask = real[box], generated[box], mask[box]
    first, halo = (pad, pad) if 0 in axes and mask is None else (0, pad if 0 in axes else 0)
    last = real.shape[0] - first
    inside = tuple(slice(pad, -pad) if axis in axes else slice(None) for axis in (1, 2))
    total, count = 0.0, 0
    for start in range(first, last, SLAB):
        stop = min(start + SLAB, last)
        low, high = max(start - halo, 0), min(stop + halo, real.shape[0])
        values = _ssim_map(real[low:high], generated[low:high], data_range, window, axes)[start - low : stop - low]
        values = values[mask[start:stop]] if mask is not None else values[:, *inside]
        total += float(values.sum())
        count += values.size
    return total / count


def _ssim_map(real, generated, data_range, window, axes):
    """SSIM of every voxel, (x, y, z); sample covariance and constants .01 and .03 as in Wang et al. 2004."""
    real, generated = real.astype(np.float64), generated.astype(np.float64)

    def local_mean(values):
        return uniform_filter(values, size=window, axes=axes)  # mirrors at the volume's border, as scikit-image does

    mean_real, mean_generated = local_mean(real), local_mean(generated)
    means_squared = mean_real**2 + mean_generated**2
    means_product = mean_real * mean_generated
    samples = window ** len(axes)
    unbiased = samples / (samples - 1)
    variances = unbiased * (local_mean(real**2 + generated**2) - means_squared)
    covariance = unbiased * (local_mean(real * generated) - means_product)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * means_product + c1) * (2 * covariance + c2) / ((means_squared + c1) * (variances + c2))


def _check(real: np.ndarray, generated: np.ndarray, data_range: float) -> None:
    if real.shape != generated.shape or real.ndim != 3:
        raise ValueError(f"volumes of shape {real.shape} and {generated.shape}: give two 3D volumes of equal shape")
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise ValueError("a volume holds NaN or infinite values; replace them with numbers")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; give the positive width of the range of possible values")
