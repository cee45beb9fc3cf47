"""True perfusion: what each voxel of the brain receives from the branches near it, and when."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, spatial

from tof2perf.phantom.anatomy import Head, smooth_field
from tof2perf.phantom.disease import Disease, antegrade_supply
from tof2perf.phantom.vessels import Tree, compartment

# Healthy tissue (PMC5346350, PMC3121008): CBF in ml/100 g/min, CBV in ml/100 g; a patient's level varies by 10 % SD.
GM_CBF, WM_CBF = 52.0, 23.0
GM_CBV, WM_CBV = 4.5, 2.05

# Flow and volume relative to health against the delay that collaterals add (s). Acute: passes through the ratios
# measured in tissue that recovers (.58/.91), that infarcts (.46/.80) and in the core (.32/.56), PMC7973621; which
# delay goes with which ratio is an assumption. Chronic: vessels have widened, flow is nearly kept (s12883-016-0576-5).
_ACUTE = np.array(
    [[0, 1.5, 3, 4.5, 6.5, 9, 14], [1, 0.93, 0.75, 0.58, 0.46, 0.32, 0.18], [1, 1.05, 1.0, 0.91, 0.8, 0.56, 0.32]]
)
_CHRONIC = np.array([[0, 2, 4, 8], [1, 0.96, 0.88, 0.7], [1, 1.12, 1.2, 1.25]])

DISPERSION = 0.3  # time constant of the blur for a second of added delay, 1.5 to 4.5 s where it matters (assumption)
NEIGHBOURS = 6  # branches that share a voxel


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
    """

    cbf: np.ndarray
    cbv: np.ndarray
    mtt: np.ndarray
    delay: np.ndarray
    dispersion: np.ndarray
    supply: np.ndarray

    def tmax(self, aif_delay_s: float = 0.0) -> np.ndarray:
        """Time (s) at which the blurred residue function peaks after an AIF measured ``aif_delay_s`` after the inlets.

        Two exponentials with time constants d (dispersion) and m (MTT) peak at log(m / d) d m / (m - d).
        """
        blur = np.maximum(self.dispersion, 1e-3)
        mtt = np.where(np.abs(self.mtt - blur) < 1e-2, blur + 1e-2, np.maximum(self.mtt, 1e-2))
        peak = np.log(mtt / blur) * blur * mtt / (mtt - blur)
        return np.where(self.mtt > 0, np.maximum(self.delay - aif_delay_s, 0.0) + peak, 0.0).astype(np.float32)


def arrival_s(tree: Tree, supply: np.ndarray) -> np.ndarray:
    """Time (n,) from the inlet to each node; starved arteries flow slowly, but not below 0.3 of their speed."""
    return tree.accumulate(tree.length_mm() / (tree.velocity_mm_s() * np.clip(supply, 0.3, 1.0)))


def true_perfusion(head: Head, tree: Tree, disease: Disease, *, rng: np.random.Generator) -> Perfusion:
    """Perfusion of every voxel from the branches near it.

    A voxel is fed by the nearest end branches of its own compartment. What they lack comes backwards through pial
    collaterals from the nearest well-fed branch: the further away, the later, and the later, the less.

    Args:
        head: the patient's head.
        tree: arteries in template space.
        disease: what is wrong with them.
        rng: source of all randomness.
    """
    spacing_mm = float(head.affine[0, 0])
    supply = antegrade_supply(tree, disease)
    coarse = (slice(None, None, 2),) * 3  # arrival varies smoothly: half the resolution is enough
    inside = ndimage.binary_dilation(head.brain, iterations=2)[coarse]
    index = np.argwhere(inside) * 2.0
    points = head.to_template(index @ head.affine[:3, :3].T + head.affine[:3, 3])
    leaves = tree.leaves
    homes = _with_compartment(tree.position[leaves])
    distance, near = spatial.cKDTree(homes).query(_with_compartment(points), k=NEIGHBOURS)
    weight = 1.0 / np.maximum(distance, 1.0) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    fed = (weight * supply[leaves][near]).sum(axis=1)
    arrival = (weight * arrival_s(tree, supply)[leaves][near]).sum(axis=1)
    well_fed = supply[leaves] > 0.8
    from_rim_mm = spatial.cKDTree(homes[well_fed]).query(_with_compartment(points))[0]

    def spread(values: np.ndarray) -> np.ndarray:
        grid = np.zeros(inside.shape, dtype=np.float32)
        grid[inside] = values
        near_edge = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
        grid = ndimage.gaussian_filter(grid[tuple(near_edge)], 1.0)
        whole = np.arange(head.brain.shape[0]), np.arange(head.brain.shape[1]), np.arange(head.brain.shape[2])
        position = np.stack(np.meshgrid(*whole, indexing="ij")) / 2.0
        return ndimage.map_coordinates(grid, position, order=1, mode="nearest")

    def vary(length_mm: float) -> np.ndarray:
        return smooth_field(head.brain.shape, spacing_mm=(spacing_mm,) * 3, length_mm=length_mm, rng=rng)

    fed = np.clip(spread(fed), 0.0, 1.0)
    # Pressure falls on the way, so that the second 20 mm cost more than the first (assumption: a parabola).
    inside_mm = spread(np.minimum(from_rim_mm, 50.0))
    detour_s = disease.collateral_start_s + disease.collateral_reach_s * (inside_mm / 20.0) ** 2
    added_s = np.maximum((1.0 - fed) * detour_s * (1.0 + 0.12 * vary(20.0)), 0.0)
    delay = spread(arrival) + added_s
    table = _ACUTE if disease.kind == "occlusion" else _CHRONIC
    level_cbf, level_cbv = np.clip(rng.normal(1.0, 0.1, 2), 0.75, 1.25)
    cbf = (GM_CBF * head.gm + WM_CBF * head.wm) * level_cbf * (1.0 + 0.06 * vary(24.0)) * np.interp(added_s, *table[:2])
    cbv = (
        (GM_CBV * head.gm + WM_CBV * head.wm) * level_cbv * (1.0 + 0.05 * vary(24.0)) * np.interp(added_s, *table[::2])
    )
    dispersion = np.minimum(DISPERSION * added_s, 4.5)
    brain = head.brain & (head.gm + head.wm > 0.05)
    mtt = np.where(brain, 60.0 * cbv / np.maximum(cbf, 1e-3), 0.0)
    fields = (cbf, cbv, mtt, delay, dispersion, fed)
    return Perfusion(*(np.where(brain, field, 0.0).astype(np.float32) for field in fields))


def _with_compartment(points: np.ndarray) -> np.ndarray:
    """Add the compartment as a fourth coordinate 200 mm apart, so that neighbours are sought inside it."""
    return np.column_stack([points, 200.0 * compartment(points)])
