"""Draw where an artery is narrowed or blocked, and compute how much blood reaches each branch, and when."""

from dataclasses import dataclass

import numpy as np

from tof2perf.phantom.vessels import Tree
from tof2perf.profiles import DiseaseProfile

CHRONIC_FLOOR = 0.4  # of healthy supply that leptomeningeal and ophthalmic detours grown over years secure (assumption)
SLOWEST = 0.5  # starved arteries flow slowly, but not below this share of their healthy velocity (assumption)
COLLATERAL_START_S = (0.0, 0.5)  # delay that pial collaterals cost at the rim of a territory (assumption)


@dataclass(frozen=True)
class Lesion:
    """One narrowed or blocked place.

    Attributes:
        site: ``ICA``, ``ICA top``, ``M1``, ``M2``, ``P1``, ``A2`` or ``distal``.
        side: ``left`` or ``right``.
        node: index in the tree; everything below it is affected.
        degree: 0 open to 1 occluded, by diameter.
        open_again: recanalised: the artery flows when the TOF is acquired, the tissue behind it is not reperfused.
    """

    site: str
    side: str
    node: int
    degree: float
    open_again: bool = False

    @property
    def visible(self) -> bool:
        """Whether a TOF can show it: neither open again nor in a branch thinner than a voxel."""
        return not self.open_again and self.site != "distal"


@dataclass(frozen=True)
class Disease:
    """A patient's vascular disease.

    Attributes:
        course: ``acute`` or ``chronic``.
        lesions: possibly none.
        hypoperfused_ml: volume of tissue with Tmax above 6 s; it decides how good the pial collaterals are.
        collateral_start_s: delay at the rim of the territory that pial collaterals supply backwards.
    """

    course: str
    lesions: tuple[Lesion, ...]
    hypoperfused_ml: float
    collateral_start_s: float


@dataclass(frozen=True)
class Circulation:
    """How blood reaches each node of a tree.

    Attributes:
        supply: fraction of its healthy flow that arrives from upstream (n,), 0 to 1.
        entry: nodes that a communicating artery feeds in place of their parent, with the node its blood comes from and
            the way it takes in mm.
    """

    supply: np.ndarray
    entry: dict[int, tuple[int, float]]

    def accumulate(self, tree: Tree, per_mm: np.ndarray, *, restarts: np.ndarray | None = None) -> np.ndarray:
        """Sum a quantity from the inlets down to each node (n,), along the way the blood takes.

        Args:
            tree: the arteries.
            per_mm: quantity for each mm of the edge above a node (n,).
            restarts: nodes (n,) bool at whose edge the sum starts again from 0.
        """
        length_mm = tree.length_mm()
        total = np.zeros(len(length_mm))
        for through in (False, True):  # the sources of communicating arteries lie on direct ways: these come first
            for node, above in enumerate(tree.parent):
                before, way_mm = (above, length_mm[node])
                if through and node in self.entry:
                    before, detour_mm = self.entry[node]
                    way_mm += detour_mm
                kept = total[before] if before >= 0 and not (restarts is not None and restarts[node]) else 0.0
                total[node] = kept + (way_mm * per_mm[node] if way_mm > 0 else 0.0)
        return total

    def arrival_s(self, tree: Tree) -> np.ndarray:
        """Time (n,) from the inlets to each node."""
        return self.accumulate(tree, 1.0 / (tree.velocity_mm_s() * np.clip(self.supply, SLOWEST, 1.0)))


def draw_disease(tree: Tree, profile: DiseaseProfile, *, rng: np.random.Generator) -> Disease:
    """Draw what is wrong with a patient's arteries.

    Args:
        tree: the patient's arteries.
        profile: the distributions.
        rng: source of all randomness.

    Raises:
        ValueError: unknown course or site, or shares of sites that do not sum to 1.
    """
    if profile.course not in ("acute", "chronic"):
        raise ValueError(f"unknown course '{profile.course}' of a disease: choose acute or chronic")
    if abs(sum(profile.sites.values()) - 1.0) > 1e-6:
        raise ValueError(f"shares of the sites sum to {sum(profile.sites.values()):g}: make them sum to 1")
    start_s = float(rng.uniform(*COLLATERAL_START_S))
    side = ("left", "right")[rng.integers(2)]
    sides = (side, "left" if side == "right" else "right")[: 2 if rng.random() < profile.bilateral else 1]
    lesions = []
    for diseased in sides:
        site = str(rng.choice(list(profile.sites), p=list(profile.sites.values())))
        if site == "none":
            continue
        occluded, degree = rng.random() < profile.occluded, float(rng.uniform(*profile.stenosis))
        open_again = site == "recanalised"
        if open_again:
            site, occluded = str(rng.choice(["M1", "M2"])), True
        place = _place(tree, site, diseased, rng)
        lesions.append(Lesion(site, diseased, place, 1.0 if occluded else degree, open_again))
    spread = np.exp(profile.hypoperfused_spread * rng.standard_normal())
    spared = rng.random() < profile.good_collaterals
    if not lesions or (spared and lesions[0].visible):
        volume_ml = 0.0
    elif lesions[0].site not in profile.hypoperfused_ml:
        raise ValueError(f"hypoperfused_ml has no volume for the site '{lesions[0].site}': add its median in ml")
    else:
        volume_ml = float(profile.hypoperfused_ml[lesions[0].site] * spread)
    return Disease(profile.course, tuple(lesions), volume_ml, start_s)


def circulate(tree: Tree, disease: Disease, *, seen_by_tof: bool = False) -> Circulation:
    """Compute how blood reaches each branch from upstream, through the circle of Willis if need be.

    A stenosis limits flow from 50 % of the diameter on, down to 15 % at 99 % (assumption: critical-stenosis curve). The
    communicating arteries let blood enter at the ICA top, A2 and P2, as much as their calibre and their source allow.

    Args:
        tree: the patient's arteries.
        disease: what is wrong with them.
        seen_by_tof: as a TOF acquired now would show it: open again where an artery is, and without the detours that
            are too fine to be seen.
    """
    passes = np.ones(len(tree.parent))
    for lesion in disease.lesions:
        if not (seen_by_tof and lesion.open_again):
            narrowed = np.clip((lesion.degree - 0.5) / 0.49, 0.0, 1.0)
            passes[lesion.node] *= 0.0 if lesion.degree >= 1 else 1.0 - 0.85 * narrowed**3
    direct, _ = _flow_down(tree, passes, {})
    doors: dict[int, list[tuple[float, int, float]]] = {}  # node: what may enter there, from which node, by which way
    for side, other in (("left", "right"), ("right", "left")):
        a1, p1, carotid = (int(tree.trunk(name)[-1]) for name in (f"{other} A1", f"{side} P1", f"{side} ICA"))
        across, across_mm = _carries(tree, "ACom") * direct[a1], _line_mm(tree, "ACom")
        behind, behind_mm = _carries(tree, f"{side} PCom"), _line_mm(tree, f"{side} PCom")
        backwards_mm = float(tree.length_mm()[tree.trunk(f"{side} A1")].sum())  # up the A1 of the diseased side
        doors[int(tree.trunk(f"{side} A2")[0])] = [(across, a1, across_mm)]
        doors[int(tree.trunk(f"{side} P2")[0])] = [(behind * direct[carotid], carotid, behind_mm)]
        doors[int(tree.trunk(f"{side} ICA top")[0])] = [
            (across, a1, across_mm + backwards_mm),
            (behind * direct[p1], p1, behind_mm),
        ]
    supply, entry = _flow_down(tree, passes, doors)
    floor = CHRONIC_FLOOR if disease.course == "chronic" and not seen_by_tof else 0.0
    return Circulation(np.maximum(supply, floor), entry)


def _flow_down(
    tree: Tree, passes: np.ndarray, doors: dict[int, list[tuple[float, int, float]]]
) -> tuple[np.ndarray, dict[int, tuple[int, float]]]:
    """Compute the supply (n,) from the inlets down; communicating arteries join above the node's own lesion."""
    supply, entry = np.ones(len(tree.parent)), {}
    for node, above in enumerate(tree.parent):
        arriving = supply[above] if above >= 0 else 1.0
        offered = doors.get(node, [])
        together = min(1.0, sum(share for share, _, _ in offered))
        if together > arriving:
            _, source, way_mm = max(offered)
            arriving, entry[node] = together, (source, way_mm)
        supply[node] = passes[node] * arriving
    return supply, entry


def _carries(tree: Tree, name: str) -> float:
    """Share of the needed flow that a communicating artery carries: 0 below 0.3 mm radius, 1 from 0.8 mm."""
    radius_mm = tree.communicating[name][1]
    return float(np.clip((radius_mm**2 - 0.3**2) / (0.8**2 - 0.3**2), 0.0, 1.0))


def _line_mm(tree: Tree, name: str) -> float:
    """Length of a communicating artery."""
    return float(np.linalg.norm(np.diff(tree.communicating[name][0], axis=0), axis=1).sum())


def _place(tree: Tree, site: str, side: str, rng: np.random.Generator) -> int:
    """Choose a node of the site; the T of the ICA is its last node, below the entry of collaterals."""
    if site == "M2":
        site = str(rng.choice(["M2 superior", "M2 inferior"]))
    if site == "distal":
        site = str(rng.choice(["M3 frontal", "M3 parietal", "M3 temporal"]))
    if f"{side} {site}" not in tree.names:
        raise ValueError(f"unknown site '{site}' of a lesion: choose ICA, ICA top, M1, M2, P1, A2 or distal")
    trunk = tree.trunk(f"{side} {site}")
    if site == "ICA top":
        return int(trunk[-1])
    if site == "ICA":
        return int(rng.choice(trunk[len(trunk) // 2 : -2]))
    return int(rng.choice(trunk[: max(1, len(trunk) // 2)]))
