"""Simulate the contrast bolus: its arterial shape, and its passage through tissue."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from tof2perf.perfusion.dsc import KAPPA

# Forward model: C(t) = CBF / (6000 kappa) (AIF(t - delay) * dispersion * R)(t) with R(t) = 1 - GammaCDF(t), see
# haemodynamics.py for the transit times. The AIF is a gamma variate with r = 3 and b = 1.5 s, as in
# BezierCurveDeconvolution (Chakwizira).
SHAPE, SCALE_S = 3.0, 1.5
RECIRCULATION = 0.08  # area of the second pass over the first, 14 s later and three times as broad (assumption)
RECIRCULATION_DELAY_S, RECIRCULATION_SCALE_S = 14.0, 4.5

# Tissue: dR2* of this peak arterial concentration gives a signal drop of 40 % at CBV 4, CBF 60 and TE 36 ms.
PEAK_RATE_1_S = 390.0
# A voxel's artery is seen with less relaxivity than tissue, and no voxel of EPI size is all artery: where an artery
# fills most of what it can of a voxel, the signal falls to a quarter of the baseline, in the voxels that make a typical
# measured AIF to about 40 %. Blood over tissue relaxivity times the arterial share there (assumption; the product is
# what calibrates absolute CBF, in the simulation and in its analysis).
ARTERIAL_CALIBRATION = 0.1

# Table of passages: error below 0.5 % of a curve's peak.
_STEP_S = 0.1
_MTT_S = np.geomspace(1.0, 60.0, 28)
_DISPERSION_S = np.linspace(0.0, 5.0, 11)
_CHUNK = 4096  # voxels at a time: indices and weights stay in the processor's cache


@dataclass(frozen=True)
class Bolus:
    """An arterial input: arrival at the inlets of the tree (s), scale of the gamma variate (s) and peak dR2* (1/s)."""

    arrival_s: float
    scale_s: float
    peak_rate: float

    def __call__(self, time_s: np.ndarray) -> np.ndarray:
        """dR2* (1/s, tissue calibration) at ``time_s`` (any shape) after injection, at the inlets."""
        first = _gamma_variate(time_s - self.arrival_s, self.scale_s)
        again = _gamma_variate(time_s - self.arrival_s - RECIRCULATION_DELAY_S, RECIRCULATION_SCALE_S)
        share = RECIRCULATION * self.scale_s / RECIRCULATION_SCALE_S
        return (self.peak_rate * (first + share * again)).astype(np.float32)


def draw_bolus(*, prebolus_s: float, rng: np.random.Generator) -> Bolus:
    """Draw a patient's bolus, which arrives 2 to 8 s after the pre-bolus frames (assumption: heart and injection)."""
    arrival_s = prebolus_s + rng.uniform(2.0, 8.0)
    scale_s = SCALE_S * np.clip(rng.normal(1.0, 0.12), 0.75, 1.35)
    return Bolus(float(arrival_s), float(scale_s), float(PEAK_RATE_1_S * np.clip(rng.normal(1.0, 0.1), 0.75, 1.3)))


def average_bolus(*, prebolus_s: float) -> Bolus:
    """Return the bolus in the middle of what :func:`draw_bolus` draws."""
    return Bolus(prebolus_s + 5.0, SCALE_S, PEAK_RATE_1_S)


def tissue_curves(
    bolus: Bolus,
    *,
    cbf: np.ndarray,
    mtt: np.ndarray,
    delay: np.ndarray,
    dispersion: np.ndarray,
    times: np.ndarray,
    transit_shape: float = 1.0,
) -> np.ndarray:
    """Compute the tissue curves of voxels that the bolus passes.

    The passage is computed by Fourier transform on a fine time grid, for a table of dispersions and transit times.
    Their kernels have closed spectra. Voxels read the table by linear interpolation: delays are not rounded to frames.

    Args:
        bolus: arterial input at the inlets.
        cbf: ml/100 g/min (voxels,).
        mtt: s (voxels,), read as at least 1 and at most 60.
        delay: s after the inlets (voxels,).
        dispersion: s (voxels,), 0 for none, at most 5.
        times: s at which the curves are wanted (frames,).
        transit_shape: shape of the gamma distribution of transit times, 1 for an exponential residue.

    Returns:
        dR2* (1/s) in tissue (voxels, frames).
    """
    mtt = np.clip(mtt, _MTT_S[0], _MTT_S[-1])
    table = _passages(bolus, transit_shape, float(np.max(times)) + 1.0)
    count = table.shape[-1]
    place = np.log(mtt / _MTT_S[0]) / np.log(_MTT_S[1] / _MTT_S[0])
    across = np.clip(dispersion, 0.0, _DISPERSION_S[-1]) / _DISPERSION_S[1]
    column = np.minimum(place.astype(int), len(_MTT_S) - 2)
    row = np.minimum(across.astype(int), len(_DISPERSION_S) - 2)
    right, lower = (place - column).astype(np.float32), (across - row).astype(np.float32)
    flat = table.reshape(-1)
    curves = np.empty((len(cbf), len(times)), dtype=np.float32)
    for start in range(0, len(cbf), _CHUNK):
        part = slice(start, start + _CHUNK)
        position = np.maximum(times[None, :] - delay[part, None], 0.0) / _STEP_S
        sample = np.minimum(position.astype(np.int32), count - 2)
        after = (position - sample).astype(np.float32)
        total = np.zeros(sample.shape, dtype=np.float32)
        for down in (0, 1):
            for along in (0, 1):
                weight = (lower[part] if down else 1 - lower[part]) * (right[part] if along else 1 - right[part])
                index = sample + ((row[part] + down) * len(_MTT_S) + column[part] + along)[:, None] * count
                before = flat[index]
                total += weight[:, None] * (before + after * (flat[index + 1] - before))
        curves[part] = total
    # The passage has the area of the bolus; flow times the residue has the area CBF MTT.
    return curves * (cbf / (6000.0 * KAPPA) * mtt).astype(np.float32)[:, None]


def _passages(bolus: Bolus, transit_shape: float, duration_s: float) -> np.ndarray:
    """Compute the bolus after dispersion and transit (dispersions, transit times, samples), its area unchanged."""
    count = int(np.ceil(duration_s / _STEP_S)) + 2
    length = fft.next_fast_len(count + int(6 * _MTT_S[-1] / _STEP_S), real=True)  # tails must not come round again
    arriving = np.zeros(length)
    arriving[:count] = bolus(_STEP_S * np.arange(count))
    angular = 2j * np.pi * fft.rfftfreq(length, _STEP_S)
    spectrum = fft.rfft(arriving)
    scale = _MTT_S[:, None] / transit_shape
    residue = np.ones((len(_MTT_S), len(angular)), dtype=complex)
    residue[:, 1:] = (1.0 - (1.0 + angular[1:] * scale) ** -transit_shape) / (angular[1:] * _MTT_S[:, None])
    table = np.empty((len(_DISPERSION_S), len(_MTT_S), count), dtype=np.float32)
    for row, dispersion in enumerate(_DISPERSION_S):
        table[row] = fft.irfft(spectrum / (1.0 + angular * dispersion) * residue, length)[:, :count]
    table[..., : int(bolus.arrival_s / _STEP_S)] = 0.0  # nothing comes before the bolus, not even rounding errors
    return np.maximum(table, 0.0)


def _gamma_variate(time_s: np.ndarray, scale_s: float) -> np.ndarray:
    """Evaluate (t / peak)^r exp(r - t / scale), which is 1 at its peak r scale."""
    scaled = np.maximum(time_s, 0.0) / (SHAPE * scale_s)
    return (scaled * np.exp(1.0 - scaled)) ** SHAPE
