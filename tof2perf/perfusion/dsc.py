"""Perfusion from a DSC series: signal -> concentration -> arterial input -> deconvolution -> the five maps.

One forward model throughout: C(t) = CBF / (6000 kappa) (AIF convolved with R)(t), with CBF in ml/100 g/min and time in
s. C and AIF are changes of the transverse relaxation rate (1/s), proportional to concentration.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tof2perf.maps import get_map
from tof2perf.perfusion import parametric
from tof2perf.perfusion.arterial import bolus_arrival, find_aif, place_aif
from tof2perf.perfusion.head_motion import motion_correct
from tof2perf.perfusion.series import find_baseline, finite, prepare_series

# kappa = (1 - Hct large) / (1 - Hct small) / rho = (1 - 0.45) / (1 - 0.25) / 1.04 g/ml (Rempp 1994, Radiology 193:637):
# the haematocrit of large and small vessels differs, and flow is wanted per mass, not volume. It multiplies:
# CBF = 6000 kappa max h and CBV = 100 kappa int C / int AIF.
KAPPA = 0.705

# Typical CBV (ml/100 g) of a brain of half grey (4.6) and half white matter (2.05): PMC5346350, PMC3121008.
TYPICAL_CBV = 3.3

METHODS = ("bcsvd", "osvd", "parametric")
# Thresholds tried by osvd, up to all but the lowest frequencies (assumption; the paper names no ladder).
LADDER = np.geomspace(0.1, 0.95, 12)
CHUNK = 8192  # curves worked on at a time: their intermediate arrays stay in the processor's cache


@dataclass(frozen=True)
class Deconvolution:
    """What a deconvolution tells about each curve; every array is float32, one entry a curve."""

    cbf: np.ndarray  # ml/100 g/min
    cbv: np.ndarray  # ml/100 g
    mtt: np.ndarray  # s, 60 cbv / cbf
    delay: np.ndarray  # s, signed: Tmax, time of the highest residue (SVD); arrival of the bolus (parametric)
    cth: np.ndarray | None = None  # s, heterogeneity of transit times (parametric only)
    residue: np.ndarray | None = None  # (curves, 2 time) 1/s: CBF R / (6000 kappa); index >= time is a negative lag


class Analysis(Protocol):
    """The choices of an analysis, as a profile states them."""

    @property
    def method(self) -> str:
        """One of METHODS."""

    @property
    def aif(self) -> str:
        """``automatic``, or ``contralateral M2``: in voxels of that artery, as a rater would place it."""

    @property
    def motion_correction(self) -> bool:
        """Whether the frames are aligned first."""


class AnalysedSeries(NamedTuple):
    """What the analysis of a DSC series gives."""

    reference: np.ndarray  # (x, y, z) mean before the bolus
    maps: dict[str, np.ndarray]  # see perfusion_maps
    calibration: float  # arterial calibration, given or that by which the typical CBV is reached
    left_out: dict[int, str]  # frames that are no measurement, and why


def analyse_series(
    series: np.ndarray,
    tr: float,
    te: float,
    voxel_mm: tuple[float, float, float],
    analysis: Analysis,
    *,
    artery: np.ndarray | None = None,
    calibration: float | None = None,
) -> AnalysedSeries:
    """Turn a DSC series into maps: head mask, spoilt frames, motion correction, arterial input, deconvolution.

    Args:
        series: (x, y, z, time), any unit.
        tr: repetition time in s.
        te: echo time in s.
        voxel_mm: voxel size.
        analysis: method, arterial input and motion correction.
        artery: (x, y, z) share of each voxel that is the artery in which a rater places the arterial input.
        calibration: arterial calibration, by which the amplitude of the arterial input is divided: relaxivity of blood
            over that of tissue times the share of its voxels that is artery. A console knows it for its sequence.
            Without it CBF and CBV are relative: they are scaled so that the median CBV of the head is TYPICAL_CBV.

    Raises:
        ValueError: the series is none, see :func:`tof2perf.perfusion.series.prepare_series`; no arterial input was
            found; an unknown kind of AIF, or a placed one without its artery.
    """
    if analysis.aif != "automatic" and (analysis.aif != "contralateral M2" or artery is None):
        raise ValueError(f"unknown AIF '{analysis.aif}': choose automatic, or contralateral M2 with its artery")
    series, mask, baseline, left_out = prepare_series(series)
    if analysis.motion_correction:
        series, _ = motion_correct(series, voxel_mm=voxel_mm, baseline=baseline)
    curves = signal_to_concentration(series[mask], te=te, baseline=baseline)
    aif = find_aif(curves, tr=tr)[0] if artery is None else place_aif(curves, artery[mask])
    maps = _maps_of_curves(curves, aif / (calibration or 1), tr, mask, analysis.method)
    if calibration is None:
        calibration = TYPICAL_CBV / float(np.median(maps["cbv"][maps["cbv"] > 0]))
        maps |= {name: calibration * maps[name] for name in ("cbf", "cbv")}
    return AnalysedSeries(series[..., slice(*baseline)].mean(axis=3), maps, calibration, left_out)


def perfusion_maps(
    signal: np.ndarray,
    tr: float,
    te: float,
    *,
    mask: np.ndarray,
    aif: np.ndarray | None = None,
    method: str = "osvd",
    baseline: tuple[int, int] | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Compute Tmax, CBF, CBV, MTT and TTP of a DSC series.

    Times are clipped to the physical range of the map registry, CBF and CBV to be non-negative.

    Args:
        signal: (x, y, z, time) DSC signal, any unit.
        tr: repetition time in s.
        te: echo time in s.
        mask: (x, y, z) voxels to compute; every map is 0 elsewhere.
        aif: arterial input (time,) in 1/s; found by default.
        method: bcsvd (fixed threshold), osvd (threshold raised by oscillation index) or parametric (gamma transit
            times). The Tmax of the parametric method is the arrival of the bolus and lies below that of SVD.
        baseline: (first, stop) frames before the bolus; found from the mean curve by default.
        options: keyword arguments of :func:`deconvolve`.

    Returns:
        float32 arrays (x, y, z) named tmax (s), cbf (ml/100 g/min), cbv (ml/100 g), mtt (s), ttp (s from the bolus
        arrival in the AIF).
    """
    signal, mask = np.asarray(signal), np.asarray(mask, dtype=bool)
    if signal.ndim != 4 or mask.shape != signal.shape[:3]:
        raise ValueError(f"signal {signal.shape} and mask {mask.shape}: pass (x, y, z, time) and (x, y, z)")
    if not mask.any():
        raise ValueError("mask is empty: mark the brain's voxels")
    curves = signal_to_concentration(signal[mask], te=te, baseline=baseline)
    if aif is None:
        aif = find_aif(curves, tr=tr)[0]
    return _maps_of_curves(curves, aif, tr, mask, method, **options)


def _maps_of_curves(concentration, aif, tr, mask, method, **options):
    """As :func:`perfusion_maps`, from concentrations (curves, time) of the mask's voxels and an AIF (time,) in 1/s."""
    result = deconvolve(concentration, aif, tr, method=method, **options)
    quantities = {
        "tmax": np.clip(result.delay, 0, get_map("tmax").bounds[1]),
        "cbf": np.maximum(result.cbf, 0),
        "cbv": np.maximum(result.cbv, 0),
        "mtt": np.clip(result.mtt, 0, get_map("mtt").bounds[1]),
        "ttp": np.clip(time_to_peak(concentration, aif, tr), 0, get_map("ttp").bounds[1]),
    }
    maps = {}
    for name, values in quantities.items():
        maps[name] = np.zeros(mask.shape, np.float32)
        maps[name][mask] = values
    return maps


def signal_to_concentration(signal: np.ndarray, *, te: float, baseline: tuple[int, int] | None = None) -> np.ndarray:
    """Turn T2*-weighted signal into the change of relaxation rate -ln(S / S0) / TE.

    Samples at or below 1 % of the baseline hold no information and are read as 1 %; a curve whose baseline is not
    positive becomes all zero.

    Args:
        signal: (..., time), any unit.
        te: echo time in s.
        baseline: (first, stop) frames whose mean is S0; by default found from the mean over all curves.

    Returns:
        float32 (..., time) in 1/s.
    """
    signal = finite(signal, "signal")
    if not 0 < te < 1:
        raise ValueError(f"echo time {te} s is not between 0 and 1 s: give it in seconds")
    if baseline is None:
        baseline = find_baseline(signal.reshape(-1, signal.shape[-1]).mean(axis=0))
    first, stop = baseline
    if not 0 <= first < stop <= signal.shape[-1]:
        raise ValueError(f"baseline {baseline} does not lie in the {signal.shape[-1]} frames: give (first, stop)")
    before = signal[..., first:stop].mean(axis=-1, keepdims=True)
    ratio = np.divide(signal, before, out=np.ones_like(signal), where=before > 0)
    np.maximum(ratio, 0.01, out=ratio)
    np.log(ratio, out=ratio)
    ratio *= -1 / te
    return ratio


def time_to_peak(concentration: np.ndarray, aif: np.ndarray, tr: float) -> np.ndarray:
    """Time in s from the bolus arrival in the AIF to the peak of each curve (curves, time); all-zero curves give 0.

    The curve is smoothed with the weights 1/4, 1/2, 1/4 so that noise does not choose the frame (it delays
    the peak of a skewed curve by about 0.5 s at a TR of 2.2 s), and the peak placed by a parabola through three frames.
    """
    concentration = finite(concentration, "concentration")
    padded = np.pad(concentration, ((0, 0), (1, 1)), mode="edge")
    smooth = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * concentration
    index, _ = _parabolic_peak(smooth)
    return np.where(concentration.any(axis=1), tr * index - bolus_arrival(aif, tr), 0).astype(np.float32)


def deconvolve(
    concentration: np.ndarray,
    aif: np.ndarray,
    tr: float,
    *,
    method: str = "osvd",
    threshold: float = 0.1,
    oscillation: float = 0.095,
    search: tuple[float, float] = (-10.0, 20.0),
    smooth_s: float = 1.5,
    integration_s: float = 50.0,
    kappa: float = KAPPA,
    residues: bool = False,
) -> Deconvolution:
    """Deconvolve tissue curves with the arterial input.

    SVD methods (Wu 2003, doi 10.1002/mrm.10522): curves are padded with zeros to twice their length, so that the
    singular values of the block-circulant matrix are the moduli of the AIF's Fourier transform; frequencies below a
    threshold times the largest are cut. As the whole is linear in the curve, it is applied as one matrix. In osvd the
    threshold of a curve is raised until its residue oscillates little enough; Tmax keeps the lowest one. CBF is the
    maximum of the band-limited residue within `search`, found on a grid of half a TR and a parabola; a negative delay
    is as good as a positive one. Tmax is where the residue, smoothed by a Gaussian, is highest: noise
    makes it jump otherwise. Leakage is not corrected.

    The parametric method (Mouridsen 2014, doi 10.1038/jcbfm.2014.111) fits a gamma distribution of transit times, see
    :mod:`tof2perf.perfusion.parametric`. Its delay is the arrival of the bolus in the tissue, not the time of highest
    residue: it is the smaller by 2 to 3 s at a TR of 2.22 s, so that Tmax of the two methods must not be compared.
    Where it holds (median CBF read for 5, 10, 15, 30, 50, 70; SNR 50 in tissue and ten arterial voxels, TR 1.24 s):
    exponential residues 6, 11, 16, 30, 54, 76; linear ones 6, 12, 20, 38, 67, 100; boxes, which no capillary bed has,
    8, 17, 33, 64, 119, 163. At an SNR of 20 it reads 12 to 17 for 5: prefer osvd where flow is low and noise is high.

    Args:
        concentration: (curves, time) in 1/s.
        aif: (time,) in 1/s.
        tr: repetition time in s.
        method: bcsvd, osvd, parametric.
        threshold: bcsvd: share of the largest singular value below which values are cut (0.1 to 0.2). osvd: no
            threshold is lower, and Tmax is read at this one.
        oscillation: osvd: oscillation index below which a residue is smooth enough (Wu 2003: 0.035 to 0.095).
        search: (earliest, latest) delay in s.
        smooth_s: standard deviation in s of the Gaussian for Tmax; 0 for none.
        integration_s: CBV is integrated until this time after the arrival in the AIF: the AIF from its arrival, curves
            from the earliest delay searched, since tissue may fill before the artery that was chosen. The error of the
            baseline, and what head motion leaves, grow with the interval; 50 s hold the passage but of the latest
            curves (assumption).
        kappa: correction for haematocrit and density, by which CBF and CBV are multiplied; 1 for none.
        residues: also return the residue curves.

    Raises:
        ValueError: shapes do not match, values are not finite, the AIF has no bolus or the method is unknown.
    """
    concentration, aif = finite(concentration, "concentration"), finite(aif, "aif")
    if concentration.ndim != 2 or aif.shape != concentration.shape[1:]:
        raise ValueError(f"concentration {concentration.shape} and aif {aif.shape}: pass (curves, time) and (time,)")
    if not 0 < tr < 20:
        raise ValueError(f"repetition time {tr} s is not between 0 and 20 s: give it in seconds")
    if aif.sum() <= 0:
        raise ValueError("the AIF has no positive area: check the arterial voxels and the baseline")
    if method == "bcsvd":
        peak, delay, residue = _fixed_threshold(concentration, aif, tr, threshold, search, smooth_s, residues)
    elif method == "osvd":
        peak, delay, residue = _least_threshold(
            concentration, aif, tr, threshold, oscillation, search, smooth_s, residues
        )
    elif method == "parametric":
        return _parametric(concentration, aif, tr, threshold, search, kappa, residues)
    else:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    cbf = 6000 * kappa * peak
    cbv = kappa * _blood_volume(concentration, aif, tr, search[0], integration_s)
    mtt = np.divide(60 * cbv, cbf, out=np.zeros_like(cbv), where=cbf > 0)
    return Deconvolution(cbf, cbv, mtt, delay, residue=residue)


def _fixed_threshold(concentration, aif, tr, threshold, search, smooth_s, residues):
    """Peak (1/s) and delay (s) of the residue of every curve, and the residue (curves, 2 time) if asked for."""
    lags, sharp = _inverse(aif, tr, threshold, search=search)
    _, smooth = _inverse(aif, tr, threshold, search=search, smooth_s=smooth_s)
    peak, delay = np.zeros((2, len(concentration)), np.float32)
    for start in range(0, len(concentration), CHUNK):
        rows = slice(start, start + CHUNK)
        _, peak[rows] = _parabolic_peak(concentration[rows] @ sharp)
        index, _ = _parabolic_peak(concentration[rows] @ smooth)
        delay[rows] = lags[0] + index * (lags[1] - lags[0])
    silent = ~concentration.any(axis=1)
    peak[silent] = delay[silent] = 0
    return np.maximum(peak, 0), delay, concentration @ _inverse(aif, tr, threshold)[1] if residues else None


def _least_threshold(concentration, aif, tr, threshold, oscillation, search, smooth_s, residues):
    """As `_fixed_threshold`, with the peak of each curve at the lowest threshold that makes its residue calm.

    The oscillation index of a residue of L samples is the sum of its absolute second differences over L times its
    maximum (Wu 2003). Noise is highest where flow is low, so that a fixed threshold reads a flow of 5 as 17.
    """
    peak, delay, residue = _fixed_threshold(concentration, aif, tr, threshold, search, smooth_s, residues)
    left = np.flatnonzero(concentration.any(axis=1))
    for lower, higher in itertools.pairwise([threshold, *(step for step in LADDER if step > threshold)]):
        left = left[~_is_calm(concentration[left], _inverse(aif, tr, lower)[1], oscillation)]
        found = _fixed_threshold(concentration[left], aif, tr, higher, search, smooth_s, residues)
        peak[left] = found[0]
        if residues:
            residue[left] = found[2]
    return peak, delay, residue


def _is_calm(concentration, inverse, oscillation):
    """Whether the residue of each curve, curve times inverse, has an oscillation index of at most this."""
    calm = np.zeros(len(concentration), dtype=bool)
    for start in range(0, len(concentration), CHUNK):
        residue = concentration[start : start + CHUNK] @ inverse
        bends = np.abs(np.diff(residue, n=2, axis=1)).sum(axis=1)
        calm[start : start + CHUNK] = bends <= oscillation * residue.shape[1] * residue.max(axis=1)
    return calm


def _parametric(concentration, aif, tr, threshold, search, kappa, residues):
    """Gamma-distributed transit times, started from and held near the block-circulant SVD of a fixed threshold."""
    svd = deconvolve(concentration, aif, tr, method="bcsvd", threshold=threshold, search=search)
    seen = svd.cbf > 0
    start = np.zeros((np.count_nonzero(seen), 4), np.float32)
    start[:, 0] = np.log(svd.cbf[seen] / (6000 * KAPPA))
    start[:, 2] = svd.delay[seen]
    start[:, 3] = np.log(np.clip(svd.mtt[seen], 1, 20))  # alpha starts at 1, an exponential: beta is the transit time
    fitted = np.zeros((len(seen), 4), np.float32)
    fitted[seen] = parametric.fit(concentration[seen], aif, tr, start, search=search)
    height, alpha, beta = np.where(seen, np.exp(fitted[:, [0, 1, 3]].T), 0)
    cbf, mtt = 6000 * kappa * height, alpha * beta
    residue = parametric.residue(fitted, tr, len(aif)) * seen[:, None] if residues else None
    return Deconvolution(cbf, cbf * mtt / 60, mtt, fitted[:, 2], np.sqrt(alpha) * beta, residue)


def _inverse(aif, tr, threshold, *, search=None, smooth_s=0.0):
    """Lags (s) and the matrix (time, lags) that takes curves to their residues (1/s).

    Without `search` the lags are the 2 time samples of the block-circulant inverse; with it they run over that
    interval in half steps of the repetition time, which the Fourier sum gives as readily.
    """
    frames, size = len(aif), 2 * len(aif)
    spectrum = tr * np.fft.rfft(aif.astype(float), size)
    kept = np.abs(spectrum) >= threshold * np.abs(spectrum).max()
    angular = 2 * np.pi * np.fft.rfftfreq(size, tr)
    weight = np.where(kept, np.exp(-0.5 * (angular * smooth_s) ** 2), 0) / np.where(kept, spectrum, 1) / size
    weight[1:-1] *= 2  # each frequency between the first and the last stands for its negative too
    if search is None:
        lags = tr * np.arange(size)
    else:
        lags = tr / 2 * np.arange(np.floor(2 * search[0] / tr), np.ceil(2 * search[1] / tr) + 1)
    times = tr * np.arange(frames)
    matrix = np.exp(-1j * times[:, None] * angular) @ (weight[:, None] * np.exp(1j * angular[:, None] * lags))
    return lags, matrix.real.astype(np.float32)


def _parabolic_peak(curves):
    """Index (with fraction) and height of the highest point of each row, by a parabola through three points."""
    rows = np.arange(len(curves))
    top = curves.argmax(axis=1)
    inner = np.clip(top, 1, curves.shape[1] - 2)
    left, centre, right = curves[rows, inner - 1], curves[rows, inner], curves[rows, inner + 1]
    bend = left - 2 * centre + right
    at_edge = (top != inner) | (bend >= 0)
    shift = np.where(at_edge, 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1))
    return top + shift, np.where(at_edge, curves[rows, top], centre - 0.25 * (left - right) * shift)


def _blood_volume(concentration, aif, tr, earliest_s, integration_s):
    """CBV (ml/100 g, without kappa) of each curve: 100 times the ratio of the areas of curve and AIF."""
    arrival = bolus_arrival(aif, tr)
    stop = int(arrival / tr) + max(int(np.ceil(integration_s / tr)), 1)
    area = concentration[:, max(int((arrival + earliest_s) / tr), 0) : stop].sum(axis=1)
    return (100 / aif[int(arrival / tr) : stop].sum() * area).astype(np.float32)
