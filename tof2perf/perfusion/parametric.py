"""Parametric deconvolution: gamma-distributed transit times fitted to every curve at once (Mouridsen 2014).

The residue function is R(t) = 1 - GammaCDF(t - delay; alpha, beta), doi 10.1038/jcbfm.2014.111: mean transit time
alpha beta, heterogeneity of transit times sqrt(alpha) beta. All curves share the arterial input, so the model curve
depends on three numbers only. It is tabulated once with its derivatives; a fit then needs no convolution at all.
"""

from dataclasses import dataclass
from typing import NamedTuple

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
# below that says nothing about the shape of R, which the prior then decides.
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
    index, offsets = 0, []
    for axis, values in zip(table.axes, position, strict=True):
        node = np.clip(np.rint((values - axis[0]) / (axis[1] - axis[0])), 0, len(axis) - 1).astype(np.intp)
        offsets.append((values - axis[node]).astype(np.float32))
        index = index * len(axis) + node
    a, m, d = offsets  # from the nearest node, in log alpha, log mtt and delay
    one, no = np.ones_like(a), np.zeros_like(a)
    taylor = np.array(
        [  # value, its three first, and six second derivatives: by aa, am, ad, mm, md, dd
            [one, a, m, d, a * a / 2, a * m, a * d, m * m / 2, m * d, d * d / 2],  # the model's value
            [no, one, no, no, a, m, d, no, no, no],  # its slope by log alpha
            [no, no, one, no, no, a, no, m, d, no],  # by log mtt
            [no, no, no, one, no, no, a, no, m, d],  # by delay
        ]
    )
    parts = np.ascontiguousarray(taylor.transpose(2, 0, 1)) @ table.expansion[index]  # (n, 4, K)
    return parts @ parts.transpose(0, 2, 1), (parts @ curves[:, :, None])[..., 0]


class _State(NamedTuple):
    """Curves and where their fit is; every array has one entry a curve."""

    curves: np.ndarray  # (n, K) coordinates in the table's basis
    energy: np.ndarray  # sum of squares over time
    prior: np.ndarray  # (n, 4) mean of the prior of theta
    theta: np.ndarray  # (n, 4) log height, log alpha, delay, log beta
    gram: np.ndarray  # (n, 4, 4) products of model and slopes with each other
    product: np.ndarray  # (n, 4) with the curve
    rest: np.ndarray  # squared residual
    cost: np.ndarray  # negative log of the posterior probability

    def where(self, rows):
        """Select curves by a mask."""
        return _State(*(part[rows] for part in self))


# Rows turn the slopes by (log alpha, log mtt, delay) into those by (log height, log alpha, delay, log beta).
_TURN = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]], np.float32)
_PRECISION = (1 / VARIANCE).astype(np.float32)


def _fit_chunk(table, curves, start):
    """As :func:`fit`, for curves (n, time) of zero mean."""
    frames, energy = curves.shape[1], np.square(curves).sum(axis=1)
    result = _bounded(table, start.astype(np.float32))
    live = np.flatnonzero(energy > 0)
    if not live.size:
        return result
    state = _state(table, result[live], (curves @ table.basis)[live], energy[live], result[live], frames)
    damping = np.full(len(live), 1e-2, np.float32)
    for _ in range(ITERATIONS):
        step = np.clip(_newton_step(state, damping, frames), -1.5, 1.5)
        trial = _bounded(table, state.theta + step)
        trial = _state(table, trial, state.curves, state.energy, state.prior, frames)
        better = trial.cost <= state.cost
        moved, gain = np.abs(trial.theta - state.theta).max(axis=1), state.cost - trial.cost
        for old, new in zip(state, trial, strict=True):
            old[better] = new[better]
        damping = np.where(better, damping * 0.2, damping * 8)
        going = np.where(better, (gain > 1e-3) | (moved > 0.05), damping < 1e4)
        if going.mean() < 0.8:  # go on with these alone
            result[live] = state.theta
            live, state, damping = live[going], state.where(going), damping[going]
            if not live.size:
                break
    result[live] = state.theta
    return result


def _bounded(table, theta):
    """Clip theta (n, 4) to the range of the table; the transit time is bounded through beta."""
    log_alpha, log_mtt, delay = ((axis[0], axis[-1]) for axis in table.axes)
    lower, upper = np.array([(-np.inf, np.inf), log_alpha, delay, (-np.inf, np.inf)], np.float32).T
    theta = np.clip(theta, lower, upper)
    theta[:, 3] = np.clip(theta[:, 1] + theta[:, 3], *log_mtt) - theta[:, 1]
    return theta


def _state(table, theta, curves, energy, prior, frames):
    """Residual and cost of curves (n, K) at theta (n, 4); the noise variance of a curve is that of its residual."""
    gram, product = _evaluate(table, theta, curves)
    height = np.exp(theta[:, 0])
    rest = energy - 2 * height * product[:, 0] + height**2 * gram[:, 0, 0]
    rest = np.maximum(rest, MODEL_ERROR**2 * energy)
    cost = 0.5 * frames * np.log(rest) + 0.5 * (np.square(theta - prior) * _PRECISION).sum(axis=1)
    return _State(curves, energy, prior, theta, gram, product, rest, cost)


def _newton_step(state, damping, frames):
    """Levenberg-damped Gauss-Newton step (n, 4)."""
    height = np.exp(state.theta[:, :1])
    curvature = _TURN @ state.gram @ _TURN.T * (height**2)[..., None]
    slope = height * (state.product @ _TURN.T) - curvature[:, 0]  # J^T (data - model)
    ratio = (frames / state.rest)[:, None]
    hessian = curvature * ratio[..., None]
    hessian[:, range(4), range(4)] = hessian[:, range(4), range(4)] * (1 + damping[:, None]) + _PRECISION
    pull = slope * ratio - _PRECISION * (state.theta - state.prior)
    return np.linalg.solve(hessian, pull[..., None])[..., 0]
