"""Arterial and tissue curves of a known perfusion."""

import numpy as np
from scipy.special import gammainc

from tof2perf.perfusion.dsc import (
    KAPPA,
    signal_to_concentration,
)

TR, TE, FRAMES, ONSET, WIDTH = 2.22, 0.036, 60, 18.0, 1.5
TIMES = TR * np.arange(FRAMES)


def artery(times=TIMES, delay=0.0):
    """Gamma variate with a peak of about 385 1/s (40 % signal drop in tissue of CBF 60, CBV 4)."""
    since = np.maximum(times - ONSET - delay, 0)
    return 84.8 * since**3 * np.exp(-since / WIDTH)


def tissue(cbf, mtt, delay, times=TIMES):
    """Exact convolution of `artery` with exp(-t / mtt): (curves, time)."""
    cbf, mtt, delay = (np.atleast_1d(np.asarray(x, dtype=float))[:, None] for x in (cbf, mtt, delay))
    since = np.maximum(times - ONSET - delay, 0)
    rate = 1 / WIDTH - 1 / mtt
    return cbf / (6000 * KAPPA) * 84.8 * np.exp(-since / mtt) * 6 / rate**4 * gammainc(4, rate * since)


def with_noise(concentration, rng, snr):
    """Through the signal: Rician noise, then back with a baseline of seven frames."""
    signal = np.exp(-TE * concentration)
    signal = np.hypot(signal + rng.normal(size=signal.shape) / snr, rng.normal(size=signal.shape) / snr)
    return signal_to_concentration(signal, te=TE, baseline=(0, 7))


def measured(cbf, mtt, delay, rng, *, snr, tr, count, voxels=1):
    """Noisy tissue curves, `count` for each CBF (CBF, count, time), and an AIF of `voxels` arteries, noise included."""
    times = tr * np.arange(int(110 / tr))
    curves = np.repeat(tissue(cbf, mtt, delay, times)[:, None], count, axis=1)
    # An arterial voxel holds three tenths of the blood's rate: all of it would take the signal to zero.
    aif = with_noise(np.repeat(0.3 * artery(times)[None], voxels, axis=0), rng, snr).mean(axis=0) / 0.3
    return with_noise(curves, rng, snr), aif


def head_series(rng, shape=(22, 24, 10), snr=50):
    """A series (x, y, z, time) of an ellipsoid with 40 arterial voxels, late blood on one side, and air around it."""
    x, y, z = (np.linspace(-1.2, 1.2, size) for size in shape)
    x, y, z = np.meshgrid(x, y, z, indexing="ij")
    head = x**2 + y**2 + z**2 < 1
    flow = np.where(np.abs(np.sin(4 * x) * np.cos(3 * y)) > 0.4, 55, 22) * np.where(head, 1, 0)
    curves = tissue(flow[head], np.where(flow[head] > 30, 4.5, 5.5), np.where(x[head] > 0.3, 5.0, 1.0))
    curves[rng.choice(np.flatnonzero(x[head] < 0.2), 40, replace=False)] = 0.1 * artery()
    signal = np.zeros((*shape, FRAMES))
    signal[head] = (600 + 200 * np.cos(5 * y * z)[head])[:, None] * np.exp(-TE * curves)
    noise = rng.normal(0, 600 / snr, (2, *signal.shape))
    return np.hypot(signal + noise[0], noise[1]).astype(np.float32)
