"""Compute true perfusion: what each voxel of the brain receives from the branches near it, and when."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage, signal, spatial, stats

from tof2perf.phantom.disease import Disease, circulate
from tof2perf.phantom.head import Head, smooth_field
from tof2perf.phantom.vessels import Tree, compartment

# Healthy tissue (PMC5346350, PMC3121008): CBF in ml/100 g/min, CBV in ml/100 g; a patient's level varies by 10 % SD.
GM_CBF, WM_CBF = 52.0, 23.0
GM_CBV, WM_CBV = 4.5, 2.05

# Flow and volume relative to health against the delay that collaterals add (s). Acute: passes through the ratios
# measured in tissue that recovers (.58/.91), that infarcts (.46/.80) and in the core (.32/.56), PMC7973621; which
# delay goes with which ratio is an assumption: measured Tmax of 6 and 10 s are near 2 and 5 s here. Chronic: flow
# is nearly kept (s12883-016-0576-5).
_ACUTE = np.array(
    [
        [0, 0.8, 1.6, 2.4, 3.6, 5.0, 14],
        [1, 0.96, 0.78, 0.58, 0.46, 0.32, 0.18],
        [1, 1.05, 1.00, 0.91, 0.80, 0.56, 0.32],
    ]
)
_CHRONIC = np.array([[0, 2, 4, 8], [1, 0.96, 0.88, 0.7], [1, 1, 1, 1]])
# Vessels behind a chronic lesion widen with what antegrade supply lacks, so CBV rises by this share of it (assumption).
CHRONIC_WIDENING = 0.35

# From the end branches through arterioles to the capillaries; white matter is reached later (assumption: with the way
# through the tree about 1 and 1.5 s after the neck, as arterial spin labelling finds).
GM_TRANSIT_S, WM_TRANSIT_S = 0.3, 0.8
DISPERSION = 0.3  # time constant of the blur for a second of added delay, 1.5 to 4.5 s where it matters (assumption)
LONGEST_DETOUR_S = 16.0  # what arrives later than this is not seen by a series of two minutes (assumption)
# The delay that collaterals add grows with the depth in the territory to this power, so that the volume with Tmax above
# 10 s is near 0.4 of that above 6 s (hypoperfusion intensity ratio, PMC4047639). The power itself is an assumption.
DEPTH_POWER = 5.0
DEPTH_MM = 30.0  # at which a patient's collateral reach is stated
REACH_S = (0.01, 100.0)  # best and worst collaterals
LATE_S = 6.0  # Tmax above it is hypoperfused tissue
# Cited volumes were measured: block-circulant SVD at a repetition time of 2.22 s reads this true delay, and the
# dispersion that goes with it, as Tmax of 6 s (median of simulated patients, notebooks/explore/phantom.ipynb).
HYPOPERFUSED_DELAY_S = 3.5
# Transit times are gamma-distributed: shape (mean / SD)^2 = 1.1 from MTT 1.4 s and SD 1.33 s
# (doi 10.1038/jcbfm.2011.153), 1 is an exponential residue; the spread over patients is an assumption.
TRANSIT_SHAPE, TRANSIT_SHAPE_SPREAD = 1.1, 0.15
NEIGHBOURS = 6  # branches that share a voxel
EVERY_SECOND = (slice(None, None, 2),) * 3  # arrival varies smoothly: half the resolution is enough


@dataclass(frozen=True)
class Perfusion:
    """Truth on the head's grid (x, y, z), zero outside the brain.

    Attributes:
        cbf: ml/100 g/min.
        cbv: ml/100 g.
        mtt: s.
        delay: s, arrival of the bolus after it passed the inlets.
        dispersion: s, time constant of the exponential kernel by which collaterals blur the bolus.
        supply: fraction of healthy antegrade supply.
        transit_shape: of the gamma distribution of transit times, the same in the whole brain.
        collateral_reach_s: delay that pial collaterals add 30 mm inside a starved territory; long is poor.
    """

    cbf: np.ndarray
    cbv: np.ndarray
    mtt: np.ndarray
    delay: np.ndarray
    dispersion: np.ndarray
    supply: np.ndarray
    transit_shape: float
    collateral_reach_s: float

    @property
    def collateral_grade(self) -> str:
        """``good``, ``moderate`` or ``poor`` by the delay that collaterals add 30 mm inside (limits: assumption)."""
        reach_s = self.collateral_reach_s
        return "good" if reach_s < 2.0 else "moderate" if reach_s < 8.0 else "poor"

    def tmax(self, aif_delay_s: float = 0.0) -> np.ndarray:
        """Time (s) at which the residue function, blurred by dispersion, peaks in each voxel (x, y, z).

        Args:
            aif_delay_s: how long after the inlets the arterial input is measured.
        """
        mtt = np.maximum(self.mtt, 1e-2)
        peak = mtt * _peak_of_blurred_residue(
            np.round(self.transit_shape, 3), np.log(np.maximum(self.dispersion, 1e-6) / mtt)
        )
        return np.where(self.mtt > 0, np.maximum(self.delay - aif_delay_s, 0.0) + peak, 0.0).astype(np.float32)


def true_perfusion(head: Head, tree: Tree, disease: Disease, *, rng: np.random.Generator | None) -> Perfusion:
    """Compute the perfusion of every voxel from the branches near it.

    A voxel is fed by the nearest end branches of its own compartment. What they lack comes backwards through pial
    collaterals from the nearest well-fed branch: the further away, the later, and the later, the less. How good these
    collaterals are follows from the volume of hypoperfused tissue that was drawn for the patient.

    Args:
        head: the patient's head.
        tree: arteries in template space.
        disease: what is wrong with them.
        rng: source of all randomness; None puts all that varies between patients at the population's average.
    """
    fed, arrival, rim_mm = _from_upstream(head, tree, disease)
    spacing_mm = float(head.affine[0, 0])
    depth = (rim_mm / DEPTH_MM) ** DEPTH_POWER
    starved = (1.0 - fed) * np.maximum(1.0 + 0.12 * _vary(fed.shape, 2 * spacing_mm, 20.0, rng), 0.0)

    def added_s(reach_s: float) -> np.ndarray:
        """Delay that collaterals of this reach add, on every second voxel."""
        return np.minimum(starved * (disease.collateral_start_s + reach_s * depth), LONGEST_DETOUR_S)

    brain = head.brain & (head.gm + head.wm > 0.05)
    white = head.wm / np.maximum(head.gm + head.wm, 0.05)
    through_s = ndimage.gaussian_filter(GM_TRANSIT_S + (WM_TRANSIT_S - GM_TRANSIT_S) * white, 1.0)
    coarse_brain, healthy_s = brain[EVERY_SECOND], arrival + through_s[EVERY_SECOND]
    reach_s = _reach_for_volume(
        lambda reach: float(np.count_nonzero((healthy_s + added_s(reach) > HYPOPERFUSED_DELAY_S) & coarse_brain)),
        disease.hypoperfused_ml * 1000.0 / (2 * spacing_mm) ** 3,
    )
    table = _ACUTE if disease.course == "acute" else _CHRONIC
    level_cbf, level_cbv = (1.0, 1.0) if rng is None else np.clip(rng.normal(1.0, 0.1, 2), 0.75, 1.25)
    uneven = [_vary(brain.shape, spacing_mm, 24.0, rng)[brain] for _ in range(2)]
    added, supply, arrival = (_refine(grid, brain.shape)[brain] for grid in (added_s(reach_s), fed, arrival))
    gm, wm = head.gm[brain], head.wm[brain]
    cbf = (GM_CBF * gm + WM_CBF * wm) * level_cbf * (1.0 + 0.06 * uneven[0]) * np.interp(added, *table[:2])
    cbv = (GM_CBV * gm + WM_CBV * wm) * level_cbv * (1.0 + 0.05 * uneven[1]) * np.interp(added, *table[::2])
    if disease.course == "chronic":
        cbv *= 1.0 + CHRONIC_WIDENING * (1.0 - supply)
    mtt = 60.0 * cbv / np.maximum(cbf, 1e-3)
    delay = arrival + through_s[brain] + added
    fields = np.zeros((6, *brain.shape), dtype=np.float32)
    fields[:, brain] = cbf, cbv, mtt, delay, np.minimum(DISPERSION * added, 4.5), supply
    shape = TRANSIT_SHAPE * (1.0 if rng is None else float(np.exp(TRANSIT_SHAPE_SPREAD * rng.standard_normal())))
    cbf, cbv, mtt, delay, dispersion, supply = fields
    return Perfusion(cbf, cbv, mtt, delay, dispersion, supply, shape, reach_s)


def _from_upstream(head: Head, tree: Tree, disease: Disease) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute what the arteries bring to every second voxel of a head.

    Returns:
        Share of the healthy flow that arrives, time of arrival at the end branches (s), and distance to the nearest
        well-fed end branch of the same compartment (mm, at most 50); each smooth, (x, y, z).
    """
    way = circulate(tree, disease)
    inside = ndimage.binary_dilation(head.brain, iterations=2)[EVERY_SECOND]
    points = head.to_template(np.argwhere(inside) * 2.0 @ head.affine[:3, :3].T + head.affine[:3, 3])
    places, leaves = _with_compartment(points), tree.leaves
    homes = _with_compartment(tree.position[leaves])
    distance, near = spatial.cKDTree(homes).query(places, k=NEIGHBOURS)
    weight = 1.0 / np.maximum(distance, 1.0) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    well_fed = way.supply[leaves] > 0.8
    rim_mm = spatial.cKDTree(homes[well_fed]).query(places)[0] if well_fed.any() else np.full(len(places), np.inf)
    nearest_inside = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)

    def smooth(values: np.ndarray) -> np.ndarray:
        grid = np.zeros(inside.shape, dtype=np.float32)
        grid[inside] = values
        return ndimage.gaussian_filter(grid[tuple(nearest_inside)], 1.0)

    fed = np.clip(smooth((weight * way.supply[leaves][near]).sum(axis=1)), 0.0, 1.0)
    arrival = smooth((weight * way.arrival_s(tree)[leaves][near]).sum(axis=1))
    return fed, arrival, smooth(np.minimum(rim_mm, 50.0))


def _vary(shape: tuple[int, ...], spacing_mm: float, length_mm: float, rng: np.random.Generator | None) -> np.ndarray:
    """A smooth random field (x, y, z), 0 without a generator."""
    if rng is None:
        return np.zeros(shape, dtype=np.float32)
    return smooth_field(shape, spacing_mm=(spacing_mm,) * 3, length_mm=length_mm, rng=rng)


def _refine(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate a grid of every second voxel to all voxels (x, y, z)."""
    between = [_between(coarse, fine) for coarse, fine in zip(grid.shape, shape, strict=True)]
    return np.einsum("xi,yj,zk,ijk->xyz", *between, grid, optimize=True)


def _between(coarse: int, fine: int) -> np.ndarray:
    """Make the matrix (fine, coarse) of linear interpolation to twice the resolution; the last value is held."""
    return np.stack([np.interp(np.arange(fine) / 2, np.arange(coarse), one) for one in np.eye(coarse)], axis=1).astype(
        np.float32
    )


def _reach_for_volume(volume: Callable[[float], float], wanted: float) -> float:
    """Find by bisection the collateral reach (s) at which a volume that grows with it equals the one wanted.

    Where the territory is smaller than that, the worst collaterals are those that leave a tenth of it.
    """
    low, high = REACH_S
    wanted = min(wanted, 0.9 * volume(high))
    if volume(low) >= wanted:
        return low
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if volume(middle) < wanted else (low, middle)
    return high


@lru_cache(maxsize=4)
def _blurred_residue_peaks(shape: float) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate when a blurred residue peaks: log of dispersion over MTT (n,), and peak time over MTT (n,)."""
    ratio = np.geomspace(1e-3, 10.0, 48)
    step = 0.002
    time = step * np.arange(6000)
    residue = stats.gamma.sf(time, shape, scale=1.0 / shape)
    peak = []
    for constant in ratio:
        keep = np.exp(-step / constant)
        blurred = signal.lfilter([0.0, 1.0 - keep], [1.0, -keep], residue)
        peak.append(time[np.argmax(blurred)])
    return np.log(ratio), np.array(peak)


def _peak_of_blurred_residue(shape: float, log_ratio: np.ndarray) -> np.ndarray:
    """Read the peak time over MTT at any logarithm of dispersion over MTT; it is 0 without dispersion."""
    known, peak = _blurred_residue_peaks(float(shape))
    return np.where(log_ratio < known[0], 0.0, np.interp(log_ratio, known, peak))


def _with_compartment(points: np.ndarray) -> np.ndarray:
    """Add the compartment as a fourth coordinate 200 mm apart, so that neighbours are sought inside it."""
    return np.column_stack([points, 200.0 * compartment(points)])
