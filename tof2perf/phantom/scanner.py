"""Simulate the scanner: a TOF-MRA by steady-state inflow and a DSC series by gradient-echo EPI, on their own grids."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tof2perf.phantom.bolus import ARTERIAL_CALIBRATION, Bolus, tissue_curves
from tof2perf.phantom.disease import Disease, circulate
from tof2perf.phantom.haemodynamics import Perfusion
from tof2perf.phantom.head import Head, smooth_field
from tof2perf.phantom.vessels import Tree

# 3 T: T1 in s and proton density relative to CSF.
T1_S = {"gm": 1.209, "wm": 0.758, "csf": 4.3, "blood": 1.65}
DENSITY = {"gm": 0.89, "wm": 0.73, "csf": 1.0, "blood": 0.87}
T2STAR_S = {"gm": 0.055, "wm": 0.048, "csf": 0.35}  # at 3 T (assumption from 40 to 60 ms in tissue)
SCALP_DENSITY = 0.45  # what fat suppression leaves of skin and muscle (assumption)
SKULL_DENSITY = 0.05

TOF_TR_S, TOF_TE_S, TOF_FLIP_DEG = 0.022, 0.00386, 18.0  # the paper's protocol
SLABS = 3  # the volume is acquired in slabs; blood that enters a slab from below is fresh (assumption)
SLAB_EDGE_MM = 3.0  # width of the darker band where two slabs meet (assumption)
FWHM_PER_SIGMA = 2.355  # a coarser voxel sees a Gaussian as wide as itself at half height
POINTS_PER_VOXEL = 12  # a vessel is drawn as points of this share of a voxel's volume
GOLDEN_STEPS = 1.2207440846057596 ** -np.arange(1, 4)  # of the sequence in three dimensions: the root of g^4 = g + 1

ARTERY_SATURATION = 0.35  # arterial share of an EPI voxel from which the signal floor is reached, see bolus.py


@dataclass(frozen=True)
class TofSettings:
    """How one scanner and one session differ from the nominal TOF; the defaults are the nominal one.

    Attributes:
        flip_scale: true over nominal flip angle; at 3 T it differs between heads (B1).
        ramp: relative rise of the flip angle from the bottom to the top of a slab, which spares blood that comes late.
        suppression: share of the white matter's signal that magnetisation transfer takes away.
        blur_mm: full width at half height of the point-spread function beyond the voxel.
        noise: noise SD over the nominal one.
        slab_shift: by how much of a slab's height the inner faces lie higher than at a third and two thirds.
        slab_dip: share of the signal that is lost where two slabs meet.
        shading: SD of the logarithm of the coil's sensitivity over the volume.
    """

    flip_scale: float = 1.0
    ramp: float = 0.0
    suppression: float = 0.0
    blur_mm: float = 0.0
    noise: float = 1.0
    slab_shift: float = 0.0
    slab_dip: float = 0.0
    shading: float = 0.12

    def flip_rad(self, height: np.ndarray | float) -> np.ndarray:
        """Flip angle at a height (any shape) inside a slab, 0 at its bottom and 1 at its top."""
        return np.deg2rad(TOF_FLIP_DEG) * self.flip_scale * (1.0 + self.ramp * (np.asarray(height) - 0.5))

    def slab_bottoms_mm(self, bottom_mm: float, height_mm: float) -> np.ndarray:
        """Lower faces (SLABS,) of the slabs of a volume with this bottom and height."""
        inner = (np.arange(1, SLABS) + self.slab_shift) / SLABS
        return bottom_mm + height_mm * np.concatenate([[0.0], inner])


NOMINAL = TofSettings()


def draw_settings(rng: np.random.Generator) -> TofSettings:
    """Draw the settings of one TOF; all spreads are assumptions about scanners and sessions."""
    return TofSettings(
        flip_scale=float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.25)),
        ramp=float(rng.uniform(0.0, 0.8)),
        suppression=float(rng.uniform(0.0, 0.35)),
        blur_mm=float(rng.uniform(0.0, 1.6)),
        noise=float(np.exp(rng.normal(0.0, 0.3))),
        slab_shift=float(rng.uniform(-0.25, 0.25)),
        slab_dip=float(rng.uniform(0.0, 0.15)),
        shading=float(rng.uniform(0.06, 0.18)),
    )


def grid_affine(shape: tuple[int, ...], voxel_mm: tuple[float, ...], centre_mm: tuple[float, ...]) -> np.ndarray:
    """Make the affine (4, 4) of a RAS grid around a centre in scanner mm."""
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = np.array(centre_mm) - np.array(voxel_mm) * (np.array(shape) - 1) / 2
    return affine


def steady_state(kind: str) -> float:
    """Compute the spoiled gradient-echo signal of tissue after many pulses, relative to fully relaxed CSF."""
    return float(_steady_state(kind, np.deg2rad(TOF_FLIP_DEG)))


def _steady_state(kind: str, angle: np.ndarray | float) -> np.ndarray:
    e1 = np.exp(-TOF_TR_S / T1_S[kind])
    return DENSITY[kind] * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)


def blood_signal(
    pulses: np.ndarray, *, settings: TofSettings = NOMINAL, height: np.ndarray | float = 0.5
) -> np.ndarray:
    """Compute the TOF signal of blood that has seen ``pulses`` (any shape) excitations; inf gives the steady state.

    Args:
        pulses: excitations since the blood entered the slab.
        settings: of the scanner.
        height: where in its slab the blood is (the same shape), 0 at the bottom and 1 at the top. The pulses before had
            the mean flip angle of the way from the bottom.
    """
    now, before = settings.flip_rad(height), settings.flip_rad(np.asarray(height) / 2)
    e1 = np.exp(-TOF_TR_S / T1_S["blood"])
    steady = (1 - e1) / (1 - np.cos(before) * e1)
    longitudinal = steady + (1 - steady) * (np.cos(before) * e1) ** np.asarray(pulses, dtype=float)
    return DENSITY["blood"] * np.sin(now) * longitudinal


def pulses_seen(tree: Tree, disease: Disease, height_mm: np.ndarray, slab_bottoms_mm: np.ndarray) -> np.ndarray:
    """Count the excitations that blood at each node has seen: time spent in the current slab over TR.

    Blood behind an occlusion does not move: its time in the slab is infinite, and it is saturated. Slow flow loses
    signal in the same way but less.

    Args:
        tree: arteries in template space.
        disease: what is wrong with them.
        height_mm: z of each node in scanner space (n,).
        slab_bottoms_mm: lower faces of the slabs, ascending; below the first nothing is excited.

    Returns:
        (n,) float, inf where blood does not move.
    """
    way = circulate(tree, disease, seen_by_tof=True)
    with np.errstate(divide="ignore"):
        per_mm = 1.0 / (TOF_TR_S * tree.velocity_mm_s() * way.supply)
    slab = np.searchsorted(slab_bottoms_mm, height_mm)
    pulses = way.accumulate(tree, per_mm, restarts=slab != slab[np.maximum(tree.parent, 0)])
    return np.where(slab > 0, pulses, np.where(way.supply > 0, 0.0, np.inf))


def draw_vessels(
    parent: np.ndarray,
    values: np.ndarray,
    *,
    position: np.ndarray,
    radius_mm: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Render a tree of vessels with partial volume.

    Each edge is filled evenly with points of equal volume (a low-discrepancy sequence, the generalised golden ratio of
    Roberts 2018, which needs far fewer points than chance) that are shared among the eight voxels around them, so that
    a vessel thinner than a voxel contributes in proportion to its cross-section.

    Args:
        parent: the node before each node (n,), -1 where a vessel begins.
        values: one value a node (n,), constant along the edge above it.
        position: nodes in scanner mm (n, 3).
        radius_mm: (n,).
        affine, shape: of the grid.
        rng: shifts the sequence of each edge.

    Returns:
        Fraction of each voxel that is vessel (x, y, z), at most 1, and the mean value of that part.
    """
    edge = np.flatnonzero(parent >= 0)
    start, end = position[parent[edge]], position[edge]
    volume = np.pi * radius_mm[edge] ** 2 * np.linalg.norm(end - start, axis=1)
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    count = np.maximum(np.ceil(volume * POINTS_PER_VOXEL / voxel_mm3).astype(int), 4)
    of = np.repeat(np.arange(len(edge)), count)
    number = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    shifts = rng.random((len(edge), 3))
    even = (number[:, None] * GOLDEN_STEPS + shifts[of]) % 1.0
    along = even[:, :1]
    axis = (end - start) / np.maximum(np.linalg.norm(end - start, axis=1), 1e-6)[:, None]
    side = np.cross(axis, np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(axis, side)
    distance = radius_mm[edge][of, None] * np.sqrt(even[:, 1:2])
    turn = 2 * np.pi * even[:, 2:]
    points = start[of] + along * (end - start)[of] + distance * (np.cos(turn) * side[of] + np.sin(turn) * other[of])
    index = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    share = (volume / count / voxel_mm3)[of]

    # On a grid with one more voxel around it no corner of a point falls outside.
    within = np.all((index > -1) & (index < shape), axis=1)
    index, share, brought = index[within].T, share[within], (values[edge][of] * share)[within]
    low = np.floor(index)
    parts = [(1 - part, part) for part in index - low]
    padded = tuple(count + 2 for count in shape)
    first = np.ravel_multi_index(tuple(low.astype(np.intp) + 1), padded)
    corners = list(np.ndindex(2, 2, 2))
    weights = np.stack([parts[0][x] * parts[1][y] * parts[2][z] for x, y, z in corners])
    voxels = np.concatenate([first + np.ravel_multi_index(corner, padded) for corner in corners])

    def gather(amounts: np.ndarray) -> np.ndarray:
        total = np.bincount(voxels, (weights * amounts).ravel(), minlength=int(np.prod(padded)))
        return total.reshape(padded)[1:-1, 1:-1, 1:-1]

    filled = gather(share)
    mean = gather(brought) / np.maximum(filled, 1e-9)
    return np.minimum(filled, 1.0).astype(np.float32), mean.astype(np.float32)


def acquire_tof(
    head: Head,
    tree: Tree,
    disease: Disease,
    *,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    snr: float,
    settings: TofSettings = NOMINAL,
    rng: np.random.Generator,
) -> np.ndarray:
    """Acquire a native TOF-MRA.

    Args:
        head: tissue on its own grid.
        tree: arteries in template space.
        disease: narrows radii and slows or stops flow.
        affine, shape: of the TOF's grid.
        snr: white-matter signal over noise SD, nominal.
        settings: of this scanner and session.
        rng: source of noise and coil sensitivity.

    Returns:
        Magnitude image (x, y, z) int16, arbitrary units, white matter near 200.
    """
    bottom_mm, height_mm = affine[2, 3] - affine[2, 2] / 2, shape[2] * affine[2, 2]
    slabs = settings.slab_bottoms_mm(bottom_mm, height_mm)

    # Magnetisation transfer acts on white matter most, on fluids not at all (assumption: grey matter 0.8 of white).
    kept = {"gm": 1.0 - 0.8 * settings.suppression, "wm": 1.0 - settings.suppression, "csf": 1.0}
    signal = sum(kept[kind] * steady_state(kind) * getattr(head, kind) for kind in kept)
    signal += kept["wm"] * steady_state("wm") * (SCALP_DENSITY * head.scalp + SKULL_DENSITY * head.skull)
    slices_mm = affine[2, 3] + affine[2, 2] * np.arange(shape[2])
    signal = resample(signal, head.affine, affine, shape)
    signal *= (
        _steady_state("wm", settings.flip_rad(_within_slab(slices_mm, slabs, bottom_mm + height_mm)))
        / steady_state("wm")
    ).astype(np.float32)

    position = head.to_scanner(tree.position)
    radius_mm = tree.radius_mm.copy()
    for lesion in disease.lesions:
        if not lesion.open_again and lesion.degree < 1:
            throat = np.abs(np.linalg.norm(tree.position - tree.position[lesion.node], axis=1)) < 3.0
            radius_mm[throat & (tree.segment == tree.segment[lesion.node])] *= 1.0 - lesion.degree
    pulses = pulses_seen(tree, disease, position[:, 2], slabs)
    height = _within_slab(position[:, 2], slabs, bottom_mm + height_mm)
    parent, values = tree.parent, blood_signal(pulses, settings=settings, height=height)
    for name, (line, radius) in tree.communicating.items():
        side = name.split()[0]
        ends = ("left A1", "right A1") if name == "ACom" else (f"{side} ICA", f"{side} P1")
        fresh = max(values[tree.trunk(end)[-1]] for end in ends)  # blood comes from where it flows
        parent = np.concatenate([parent, [-1], len(parent) + np.arange(len(line) - 1)])
        position = np.concatenate([position, head.to_scanner(line)])
        radius_mm = np.concatenate([radius_mm, np.full(len(line), radius)])
        values = np.concatenate([values, np.full(len(line), fresh)])
    vessel, inflow = draw_vessels(
        parent, values, position=position, radius_mm=radius_mm, affine=affine, shape=shape, rng=rng
    )
    signal += vessel * (inflow - signal)

    near_face = np.exp(-(((slices_mm[:, None] - slabs[1:]) / SLAB_EDGE_MM) ** 2)).sum(axis=1)
    signal *= (1.0 - settings.slab_dip * near_face).astype(np.float32)
    voxel_mm = np.diag(affine)[:3]
    signal = ndimage.gaussian_filter(signal, settings.blur_mm / FWHM_PER_SIGMA / voxel_mm, radius=1)
    signal *= 200.0 / (kept["wm"] * steady_state("wm"))
    sensitivity = np.exp(settings.shading * smooth_field(shape, spacing_mm=tuple(voxel_mm), length_mm=90.0, rng=rng))
    return _magnitude(signal * sensitivity, settings.noise * 200.0 / snr, rng)


def _within_slab(height_mm: np.ndarray, bottoms_mm: np.ndarray, top_mm: float) -> np.ndarray:
    """Where in its slab a height (any shape) is, 0 at the bottom and 1 at the top; below the first slab 0."""
    faces = np.append(bottoms_mm, top_mm)
    slab = np.clip(np.searchsorted(faces, height_mm, side="right") - 1, 0, len(bottoms_mm) - 1)
    return np.clip((height_mm - faces[slab]) / np.diff(faces)[slab], 0.0, 1.0)


def acquire_dsc(
    head: Head,
    tree: Tree,
    disease: Disease,
    perfusion: Perfusion,
    bolus: Bolus,
    *,
    poses: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    tr: float,
    te: float,
    snr: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Acquire a DSC series voxel by voxel, the head where it lies at each frame.

    Args:
        head, tree, disease, perfusion, bolus: the patient.
        poses: (frames, 4, 4) rigid, takes scanner mm at the time of the TOF to scanner mm at each frame.
        affine, shape: of the DSC's grid.
        tr, te: s.
        snr: baseline signal of the brain over noise SD.
        rng: source of noise.

    Returns:
        Signal (x, y, z, time) int16, brain near 1000 before the bolus.
    """
    relaxed = {kind: DENSITY[kind] * math.exp(-te / T2STAR_S[kind]) for kind in ("gm", "wm", "csf")}
    baseline = sum(relaxed[kind] * getattr(head, kind) for kind in relaxed)
    baseline = (baseline + 0.08 * head.scalp) * (1000.0 / relaxed["gm"])
    # Times are averages over the perfused part of a voxel, so they are weighted with flow.
    flow = perfusion.cbf
    weighted = (baseline, flow, perfusion.cbv, perfusion.delay * flow, perfusion.dispersion * flow)
    sigma = np.diag(affine)[:3] / FWHM_PER_SIGMA / np.diag(head.affine)[:3]
    fields = [ndimage.gaussian_filter(field, sigma, truncate=3.0) for field in weighted]
    way = circulate(tree, disease)
    arrives_s = way.arrival_s(tree)
    radius_mm = np.where(way.supply > 0, tree.radius_mm, 0.0)
    placed = head.to_scanner(tree.position)

    still = np.flatnonzero([True, *np.any(np.diff(poses, axis=0), axis=(1, 2)), True][: len(poses)])
    series = np.empty((*shape, len(poses)), dtype=np.float32)
    for first, stop in zip(still, [*still[1:], len(poses)], strict=True):
        pose, times = poses[first], tr * np.arange(first, stop)
        seen = np.linalg.inv(pose) @ affine  # DSC voxel to head at the time of the TOF
        before, flow, volume, delay, dispersion = (resample(field, head.affine, seen, shape) for field in fields)
        inside = flow > 0.5
        rate = np.zeros((*shape, len(times)), dtype=np.float32)
        rate[inside] = tissue_curves(
            bolus,
            cbf=flow[inside],
            mtt=60.0 * volume[inside] / flow[inside],
            delay=delay[inside] / flow[inside],
            dispersion=dispersion[inside] / flow[inside],
            times=times,
            transit_shape=perfusion.transit_shape,
        )
        artery, passes_s = draw_vessels(
            tree.parent,
            arrives_s,
            position=placed @ pose[:3, :3].T + pose[:3, 3],
            radius_mm=radius_mm,
            affine=affine,
            shape=shape,
            rng=rng,
        )
        blood = artery > 0.02
        share = np.minimum(artery[blood] / ARTERY_SATURATION, 1.0)[:, None]
        arterial = ARTERIAL_CALIBRATION * bolus(times[None] - passes_s[blood][:, None])
        # Large arteries share their voxel with CSF, not tissue.
        rate[blood] = (1 - share) * rate[blood] + share * arterial
        np.exp(-te * rate, out=rate)
        series[..., first:stop] = before[..., None] * rate
    return _magnitude(series, 1000.0 / snr, rng)


def resample(volume: np.ndarray, source: np.ndarray, target: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Sample a volume on another grid by linear interpolation; smooth it first where that grid is coarser."""
    to_source = np.linalg.inv(source) @ target
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    if not np.allclose(matrix, np.diag(np.diag(matrix))):
        return ndimage.affine_transform(volume, matrix, offset, output_shape=shape, order=1, output=np.float32)
    # On aligned grids linear interpolation is one small matrix an axis.
    for axis, count in enumerate(shape):
        where = matrix[axis, axis] * np.arange(count) + offset[axis]
        between = np.maximum(0, 1 - np.abs(where[:, None] - np.arange(volume.shape[axis]))).astype(np.float32)
        volume = np.moveaxis(np.tensordot(between, volume, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(volume)


def _magnitude(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Take the magnitude (int16) of a complex signal (float32, any shape) with Gaussian noise of SD ``sigma``.

    Where there is no signal at all, in air, the magnitude is Rayleigh distributed: one random number does for two.
    """
    flat = signal.reshape(int(np.prod(signal.shape[:3])), -1)
    there = flat.any(axis=1)
    seen = flat[there]
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    seen += np.float32(sigma) * noise
    rng.standard_normal(dtype=np.float32, out=noise)
    noise *= np.float32(sigma)
    power = np.square(seen, out=seen)
    power += np.square(noise, out=noise)
    air = rng.standard_exponential((len(flat) - len(seen), flat.shape[1]), dtype=np.float32)
    air *= np.float32(2 * sigma**2)
    magnitude = np.empty(flat.shape, dtype=np.int16)
    for where, squared in ((there, power), (~there, air)):
        magnitude[where] = np.rint(np.sqrt(squared, out=squared), out=squared)
    return magnitude.reshape(signal.shape)
