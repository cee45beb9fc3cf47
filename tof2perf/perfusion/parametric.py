"""Parametric deconvolution: gamma-distributed transit times fitted to every curve at once (Mouridsen 2014).

The residue function is R(t) = 1 - GammaCDF(t - delay; alpha, beta), doi 10.1038/jcbfm.2014.111: mean transit time
alpha beta, heterogeneity of transit times sqrt(alpha) beta. All curves share the arterial input, so the model curve
depends on three numbers only. It is tabulated once with its derivatives; a fit then needs no convolution at all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc

# Nodes of the table, so close that a second-order expansion between them errs by about 0.1 % of the curve's height.
# The ranges bound the fit: alpha from 0.2 (long tail) to 50 (nearly a box), mean transit time in s, delay as given.
LOG_ALPHA = np.linspace(np.log(0.2), np.log(50), 15)
LOG_MTT = np.linspace(np.log(0.4), np.log(40), 17)
DELAY_STEP = 0.75  # s
VARIANCE = np.array([0.1, 1.0, 10.0, 0.1])  # of the prior of log CBF, log alpha, delay (s), log beta (Mouridsen 2014)
ITERATIONS = 32
# Between its samples the AIF is known to about 1 % only (measured for a bolus of 6 s at a TR of 2.2 s): a residual
# below that tells nothing about the shape of R, where the prior shall rule.
MODEL_ERROR = 0.01
CHUNK = 2048


@dataclass(frozen=True)
class ModelTable:
    """Model curves AIF * R and derivatives at the nodes, in coordinates of a basis that holds all of them."""

    basis: np.ndarray  # (time, K), columns orthonormal and of zero mean
    expansion: np.ndarray  # (nodes, 10, K): value, 3 first, 6 second derivatives by (log alpha, log mtt, delay)
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]


def fit(
    concentration: np.ndarray, aif: np.ndarray, tr: float, start: np.ndarray, *, search: tuple[float, float]
) -> np.ndarray:
    """Fit height, alpha, delay and beta of the residue function to every curve.

    The most probable values under Gaussian priors around `start` are found by Levenberg-damped Gauss-Newton steps, all
    curves abreast, at most 32; the noise variance is estimated for each curve from its own residual. A constant offset
    of each curve, the error of its baseline, is fitted too and dropped.

    Args:
        concentration: (curves, time) in 1/s.
        aif: (time,) in 1/s.
        tr: repetition time in s.
        start: (curves, 4): log height (1/s) of the residue, log alpha, delay (s), log beta (s).
        search: (earliest, latest) delay in s.

    Returns:
        (curves, 4) as `start`, within the range of the table.
    """
    scale = float(np.abs(aif).max())
    table = tabulate(aif / scale, tr, search)
    fitted = np.empty_like(start)
    for first in range(0, len(start), CHUNK):
        rows = slice(first, first + CHUNK)
        curves = concentration[rows] / scale
        curves = curves - curves.mean(axis=1, keepdims=True)
        fitted[rows] = _fit_chunk(table, curves, start[rows])
    return fitted


def residue(fitted: np.ndarray, tr: float, frames: int) -> np.ndarray:
    """Sample fitted residue functions (curves, 4) at 2 frames lags, the second half standing for negative lags."""
    height, alpha, delay, beta = fitted[:, :, None].transpose(1, 0, 2)
    lags = tr * (np.arange(2 * frames) - 2 * frames * (np.arange(2 * frames) >= frames))
    since = lags - delay
    return np.where(since >= 0, np.exp(height) * gammaincc(np.exp(alpha), np.maximum(since, 0) / np.exp(beta)), 0)


def tabulate(aif: np.ndarray, tr: float, search: tuple[float, float], *, size: int = 24) -> ModelTable:
    """Tabulate the model for one AIF.

    In the frequency domain the gamma density is (1 + i w beta)^-alpha, so R is (1 - that) / (i w): no integral.
    """
    frames = len(aif)
    length = 4 * frames
    angular = 2 * np.pi * np.fft.rfftfreq(length, tr)
    # The AIF's transform holds a factor tr that sampling the model divides out again, so neither is written.
    spectrum = np.fft.rfft(_extend(aif, length))
    delays = np.arange(search[0], search[1] + DELAY_STEP, DELAY_STEP)
    shift = np.exp(-1j * angular * delays[:, None]) * spectrum  # (delay, frequency)
    basis = _basis(shift, angular, frames, size)
    # Spectrum -> first `frames` samples -> coordinates, of a curve that is shifted by each delay.
    weight = np.full(len(angular), 2.0 / length)
    weight[[0, -1]] = 1.0 / length
    wave = (np.exp(1j * angular[:, None] * tr * np.arange(frames)) * weight[:, None]) @ basis
    to_basis = (shift.T[:, :, None] * wave[:, None, :]).reshape(len(angular), -1)
    slope = -1j * angular
    value, a, m, aa, am, mm = _residue_derivatives(LOG_ALPHA[:, None, None], LOG_MTT[:, None], angular)
    terms = (value, a, m, slope * value, aa, am, slope * a, mm, slope * m, slope**2 * value)
    spectra = np.stack(terms, axis=2).astype(np.complex64).reshape(-1, len(angular))  # (alpha, mtt, term), frequency
    # The real part of their product, as one product of real matrices.
    expansion = np.hstack([spectra.real, spectra.imag]) @ np.vstack([to_basis.real, -to_basis.imag]).astype(np.float32)
    expansion = expansion.reshape(-1, len(terms), len(delays), basis.shape[1]).swapaxes(1, 2)
    return ModelTable(
        basis.astype(np.float32),
        np.ascontiguousarray(expansion).reshape(-1, len(terms), basis.shape[1]),
        (LOG_ALPHA, LOG_MTT, delays),
    )


def _residue(log_alpha, log_mtt, angular):
    """Fourier transform of R at angular frequencies (1/s), the zero frequency being the area, MTT; broadcasts."""
    alpha, mtt = np.exp(log_alpha), np.exp(log_mtt)
    safe = np.where(angular > 0, angular, 1)
    return np.where(angular > 0, (1 - (1 + 1j * safe * mtt / alpha) ** -alpha) / (1j * safe), mtt)


def _residue_derivatives(log_alpha, log_mtt, angular):
    """Value, first and second derivatives of `_residue` by a = log alpha and m = log mtt: v, a, m, aa, am, mm."""
    alpha, mtt = np.exp(log_alpha), np.exp(log_mtt)
    moving = angular > 0
    safe = np.where(moving, angular, 1)
    z = 1j * safe * mtt / alpha
    ratio, logarithm = z / (1 + z), np.log1p(z)
    # R = (1 - exp(power)) / (i w) with power = -alpha log(1 + z), and z in proportion to mtt / alpha.
    by_a, by_m = -alpha * (logarithm - ratio), -alpha * ratio
    by_aa, by_am, by_mm = by_a + alpha * ratio**2, -alpha * ratio**2, -alpha * ratio * (1 - ratio)
    factor = -np.exp(-alpha * logarithm) / (1j * safe)
    parts = by_a, by_m, by_aa + by_a**2, by_am + by_a * by_m, by_mm + by_m**2
    areas = 0, mtt, 0, 0, mtt
    return (
        _residue(log_alpha, log_mtt, angular),
        *(np.where(moving, factor * part, area) for part, area in zip(parts, areas, strict=True)),
    )


def _basis(shift, angular, frames, size):
    """The `size` main directions (time, size) of the tabulated curves after removal of their means."""
    gram = np.zeros((frames, frames))
    for log_alpha in LOG_ALPHA[::3]:
        spectra = _residue(log_alpha, LOG_MTT[::2, None], angular)[:, None] * shift
        curves = np.fft.irfft(spectra, axis=-1)[..., :frames].reshape(-1, frames)
        curves /= np.linalg.norm(curves, axis=1, keepdims=True)
        curves -= curves.mean(axis=1, keepdims=True)
        gram += curves.T @ curves
    return np.linalg.eigh(gram)[1][:, ::-1][:, :size]


def _extend(aif, length):
    """Continue the AIF beyond the series at its last level, fading to zero: zeros at once would ring back into it."""
    frames = len(aif)
    longer = np.zeros(length)
    longer[:frames] = aif
    fade = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, frames))
    longer[frames : 2 * frames] = fade * np.mean(aif[-5:])
    return longer


def _evaluate(table, theta, curves):
    """Products of model and slopes by (log alpha, log mtt, delay): with each other (n, 4, 4), with curves (n, 4)."""
    position = (theta[:, 1], theta[:, 1] + theta[:, 3], theta[:, 2])
    index, (u, v, w) = 0, np.empty((3, len(theta)), np.float32)
    for axis, values, offset in zip(table.axes, position, (u, v, w), strict=True):
        step = axis[1] - axis[0]
        node = np.clip(np.rint((values - axis[0]) / step), 0, len(axis) - 1).astype(np.intp)
        offset[:] = values - axis[node]
        index = index * len(axis) + node
    terms = np.zeros((len(theta), 4, 10), np.float32)
    terms[:, 0] = np.stack([np.ones_like(u), u, v, w, u * u / 2, u * v, u * w, v * v / 2, v * w, w * w / 2], axis=1)
    terms[:, 1, [1, 4, 5, 6]] = terms[:, 2, [2, 5, 7, 8]] = terms[:, 3, [3, 6, 8, 9]] = terms[:, 0, :4]
    parts = terms @ table.expansion[index]  # (n, 4, K)
    return parts @ parts.transpose(0, 2, 1), (parts @ curves[:, :, None])[..., 0]


def _fit_chunk(table, curves, start):
    lower = np.array([-np.inf, table.axes[0][0], table.axes[2][0], -np.inf], np.float32)
    upper = np.array([np.inf, table.axes[0][-1], table.axes[2][-1], np.inf], np.float32)

    def bounded(theta):
        theta = np.clip(theta, lower, upper)
        theta[:, 3] = np.clip(theta[:, 1] + theta[:, 3], table.axes[1][0], table.axes[1][-1]) - theta[:, 1]
        return theta

    frames = curves.shape[1]
    energy = np.square(curves).sum(axis=1)
    known = curves @ table.basis
    precision = (1 / VARIANCE).astype(np.float32)

    def cost(theta, gram, product, energy, prior):
        height = np.exp(theta[:, 0])
        rest = energy - 2 * height * product[:, 0] + height**2 * gram[:, 0, 0]
        rest = np.maximum(rest, MODEL_ERROR**2 * energy)
        return rest, 0.5 * frames * np.log(rest) + 0.5 * (np.square(theta - prior) * precision).sum(axis=1)

    # Rows turn the slopes by (log alpha, log mtt, delay) into those by (log height, log alpha, delay, log beta).
    turn = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]], np.float32)
    result = bounded(start.astype(np.float32))
    live = np.flatnonzero(energy > 0)
    theta, prior, y, power = result[live], result[live], known[live], energy[live]
    gram, product = _evaluate(table, theta, y)
    rest, value = cost(theta, gram, product, power, prior)
    damping = np.full(len(live), 1e-2, np.float32)
    for _ in range(ITERATIONS):
        height = np.exp(theta[:, :1])
        curvature = turn @ gram @ turn.T * (height**2)[..., None]
        slope = height * (product @ turn.T) - curvature[:, 0]  # J^T (data - model)
        ratio = (frames / rest)[:, None]
        hessian = curvature * ratio[..., None]
        hessian[:, range(4), range(4)] = hessian[:, range(4), range(4)] * (1 + damping[:, None]) + precision
        step = np.linalg.solve(hessian, (slope * ratio - precision * (theta - prior))[..., None])[..., 0]
        trial = bounded(theta + np.clip(step, -1.5, 1.5))
        new_gram, new_product = _evaluate(table, trial, y)
        new_rest, new_value = cost(trial, new_gram, new_product, power, prior)
        better = new_value <= value
        moved = np.abs(trial - theta).max(axis=1)
        gain = value - new_value
        for old, new in (
            (theta, trial),
            (gram, new_gram),
            (product, new_product),
            (rest, new_rest),
            (value, new_value),
        ):
            old[better] = new[better]
        damping = np.where(better, damping * 0.2, damping * 8)
        going = np.where(better, (gain > 1e-3) | (moved > 0.05), damping < 1e4)
        if going.mean() < 0.8 or not going.any():
            result[live] = theta
            live, theta, prior, y, power = live[going], theta[going], prior[going], y[going], power[going]
            gram, product, rest, value, damping = (
                gram[going],
                product[going],
                rest[going],
                value[going],
                damping[going],
            )
            if not live.size:
                break
    result[live] = theta
    return result
