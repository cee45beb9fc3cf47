"""Similarity of a generated to a real map in two conventions: as the paper computes it and as the field recommends."""

import numpy as np
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from tof2perf.maps import normalise

METRICS = {"ssim": True, "psnr": True, "mae": False, "nrmse": False}  # True where a high value is good
CONVENTIONS = ("paper", "brain")
WINDOW = 7  # voxels a side of SSIM's window: the default of scikit-image, which the released code used


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
        ValueError: unknown convention, unequal shapes, volume not 3D or thinner than SSIM's window, values that are not
            finite, a range that is not positive, or an empty or missing brain mask.

    Source: scikit-image's ``skimage.metrics`` with default arguments; Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention '{convention}': choose one of {', '.join(CONVENTIONS)}")
    real, generated = (np.asarray(values, dtype=np.float64) for values in (real, generated))
    _check(real, generated, data_range)
    if convention == "paper":
        similarity = (ssim(real, generated, data_range=data_range, slices=True) + 1) / 2
    else:
        if mask is None:
            raise ValueError("convention 'brain' needs a brain mask; give one of the volume's shape")
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != real.shape or not mask.any():
            raise ValueError(
                f"brain mask of shape {mask.shape} with {np.count_nonzero(mask)} voxels does not fit a volume of shape "
                f"{real.shape}; give a mask of that shape with at least one voxel"
            )
        similarity = ssim(real, generated, data_range=data_range, mask=mask)
        real, generated = real[mask], generated[mask]
    with np.errstate(divide="ignore", invalid="ignore"):  # equal volumes and a real one of zeros, see above
        psnr = peak_signal_noise_ratio(real, generated, data_range=data_range)
        nrmse = normalized_root_mse(real, generated) if np.any(real != generated) else 0.0
    mae = np.abs(generated - real).mean()
    return {"ssim": similarity, "psnr": float(psnr), "mae": float(mae), "nrmse": float(nrmse)}


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
    slices: bool = False,
    mask: np.ndarray | None = None,
) -> float:
    """Compute the mean structural similarity by scikit-image, with a uniform window of 7 voxels a side.

    Args:
        real: (x, y, z) volume, float64.
        generated: (x, y, z) volume, float64.
        data_range: width of the range of possible values.
        slices: two-dimensional, the mean over the slices of axis 0; otherwise three-dimensional.
        mask: average over these voxels; None averages over all voxels whose window is inside the volume.

    Raises:
        ValueError: the volume is thinner than 7 voxels along an axis of the window.
    """
    if min(real.shape[1:] if slices else real.shape) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW} voxels along each axis, the volume has {real.shape}; use a finer grid")
    settings = {"data_range": data_range, "win_size": WINDOW, "channel_axis": 0 if slices else None}
    if mask is None:
        return float(structural_similarity(real, generated, **settings))
    _, values = structural_similarity(real, generated, full=True, **settings)
    return float(values[mask].mean())


def _check(real: np.ndarray, generated: np.ndarray, data_range: float) -> None:
    if real.shape != generated.shape or real.ndim != 3:
        raise ValueError(f"volumes of shape {real.shape} and {generated.shape}: give two 3D volumes of equal shape")
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise ValueError("a volume holds NaN or infinite values; replace them with numbers")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; give the positive width of the range of possible values")
