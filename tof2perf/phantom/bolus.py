"""The contrast bolus: its arterial shape and its passage through tissue with delay, dispersion and transit time."""

from dataclasses import dataclass

import numpy as np

# Forward model: C(t) = CBF / (6000 kappa) (AIF(t - delay) * dispersion * R)(t) with R(t) = exp(-t / MTT), see science
# references in perfusion.py; gamma-variate AIF with r = 3 and b = 1.5 s as in BezierCurveDeconvolution (Chakwizira).
KAPPA = 0.705  # (1 - Hct large) / (1 - Hct small) / density of brain
SHAPE, SCALE_S = 3.0, 1.5
RECIRCULATION = 0.08  # area of the second pass over the first, 14 s later and three times as broad (assumption)
RECIRCULATION_DELAY_S, RECIRCULATION_SCALE_S = 14.0, 4.5

# Tissue: dR2* of this peak arterial concentration gives a signal drop of 40 % at CBV 4, CBF 60 and TE 36 ms.
PEAK_RATE_1_S = 390.0
# A voxel's artery is seen with less relaxivity than tissue, and no voxel of EPI size is all artery: its signal does not
# fall below 40 % of the baseline. Blood over tissue relaxivity times the arterial share at that floor (assumption; the
# product is what calibrates absolute CBF, in the simulation and in its analysis).
ARTERIAL_CALIBRATION = 0.065


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


def tissue_curves(
    bolus: Bolus,
    *,
    cbf: np.ndarray,
    mtt: np.ndarray,
    delay: np.ndarray,
    dispersion: np.ndarray,
    tr: float,
    frames: int,
    substeps: int = 6,
) -> np.ndarray:
    """Pass the bolus through voxels.

    Dispersion and residue are exponentials, so each is a first-order filter that is exact for an input that is linear
    between time points; no convolution matrix is needed and delays are not rounded.

    Args:
        bolus: arterial input at the inlets.
        cbf: ml/100 g/min (voxels,).
        mtt: s (voxels,).
        delay: s after the inlets (voxels,).
        dispersion: s (voxels,), 0 for none.
        tr: time between frames in s.
        frames: number of frames.
        substeps: integration steps a frame.

    Returns:
        dR2* (1/s) in tissue (voxels, frames).
    """
    step_s = tr / substeps
    filters = [_first_order(np.maximum(constant, 1e-3).astype(np.float32), step_s) for constant in (dispersion, mtt)]
    blurred, content = np.zeros_like(cbf, dtype=np.float32), np.zeros_like(cbf, dtype=np.float32)
    arriving_before, blurred_before = np.zeros_like(blurred), np.zeros_like(blurred)
    curves = np.empty((len(cbf), frames), dtype=np.float32)
    for index in range(frames * substeps):
        if index % substeps == 0:
            curves[:, index // substeps] = content
        arriving = bolus((index + 1) * step_s - delay)
        (keep, old, new), (keep_2, old_2, new_2) = filters
        blurred = keep * blurred + old * arriving_before + new * arriving
        content = keep_2 * content + old_2 * blurred_before + new_2 * blurred
        arriving_before, blurred_before = arriving, blurred
    # The second filter has unit area; flow times R has the area CBF MTT.
    return curves * (cbf / (6000.0 * KAPPA) * mtt).astype(np.float32)[:, None]


def _first_order(constant_s: np.ndarray, step_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the old state, the old and the new input for y' = (x - y) / constant with x linear over the step."""
    ratio = step_s / constant_s
    keep = np.exp(-ratio)
    mean = -np.expm1(-ratio) / ratio
    return keep, mean - keep, 1.0 - mean


def _gamma_variate(time_s: np.ndarray, scale_s: float) -> np.ndarray:
    """(t / peak)^r exp(r - t / scale), which is 1 at its peak r scale."""
    scaled = np.maximum(time_s, 0.0) / (SHAPE * scale_s)
    return (scaled * np.exp(1.0 - scaled)) ** SHAPE
