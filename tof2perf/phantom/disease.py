"""Where an artery is narrowed or blocked, and how much blood still reaches each branch, from which direction."""

from dataclasses import dataclass

import numpy as np

from tof2perf.phantom.vessels import Tree

# Acute: how often each site is drawn. Untreated anterior large-vessel occlusions lie at the ICA top in 10.8 %, the
# proximal MCA in 57.5 %, the distal MCA in 31.7 %; these shares of the anterior ones, the rest are assumptions.
ACUTE_SITES = {
    "none": 0.08,
    "ICA top": 0.08,
    "M1": 0.42,
    "M2": 0.22,
    "P1": 0.07,
    "A2": 0.05,
    "distal": 0.04,  # a branch too thin for the TOF: deficit without visible occlusion
    "recanalised": 0.04,  # the artery is open again, the tissue is not reperfused: the same, seen from the other end
}
# Chronic: site and whether both sides are diseased (assumptions).
CHRONIC_SITES = {"ICA": 0.6, "M1": 0.4}
BILATERAL = 0.25
REACH_S = 1.4
CHRONIC_FLOOR = 0.4  # of healthy supply that leptomeningeal and ophthalmic detours grown over years secure (assumption)
OCCLUDED = 0.25  # of chronic lesions; the others are stenoses of 60 to 97 %


@dataclass(frozen=True)
class Lesion:
    """One narrowed or blocked place.

    Attributes:
        site: ``ICA``, ``ICA top``, ``M1``, ``M2``, ``P1``, ``A2`` or ``distal``.
        side: ``left`` or ``right``.
        node: index in the tree; everything below it is affected.
        degree: 0 open to 1 occluded, by diameter.
        visible: whether the TOF shows it.
    """

    site: str
    side: str
    node: int
    degree: float
    visible: bool = True


@dataclass(frozen=True)
class Disease:
    """A patient's vascular disease.

    Attributes:
        kind: ``occlusion`` (acute) or ``stenosis`` (chronic).
        lesions: possibly none.
        collateral_start_s: delay at the rim of the territory that pial collaterals supply backwards.
        collateral_reach_s: what is added to it 20 mm inside the rim; long is poor.
    """

    kind: str
    lesions: tuple[Lesion, ...]
    collateral_start_s: float
    collateral_reach_s: float

    @property
    def collateral_grade(self) -> str:
        """``good``, ``moderate`` or ``poor`` by the delay that the pial collaterals add 20 mm inside the rim."""
        return "good" if self.collateral_reach_s < 1.2 else "moderate" if self.collateral_reach_s < 2.5 else "poor"


def draw_disease(tree: Tree, *, kind: str, rng: np.random.Generator) -> Disease:
    """Draw what is wrong with a patient's arteries.

    Args:
        tree: the patient's arteries.
        kind: ``occlusion`` for an acute patient, ``stenosis`` for chronic steno-occlusive disease.
        rng: source of all randomness.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in ("occlusion", "stenosis"):
        raise ValueError(f"unknown disease '{kind}': choose occlusion or stenosis")
    # Log-normal (assumption: median and spread set so that measured Tmax > 6 s of ICA and M1 occlusions has a median
    # near 100 ml). Collaterals develop over years of stenosis: three times as fast there.
    reach_s = float(np.clip(rng.lognormal(np.log(REACH_S), 0.8), 0.2, 9.0)) / (3.0 if kind == "stenosis" else 1.0)
    start_s = float(rng.uniform(0.2, 1.0))
    side = ("left", "right")[rng.integers(2)]
    lesions: list[Lesion] = []
    if kind == "occlusion":
        site = str(rng.choice(list(ACUTE_SITES), p=list(ACUTE_SITES.values())))
        if site == "recanalised":
            open_site = str(rng.choice(["M1", "M2"]))
            lesions.append(Lesion(open_site, side, _place(tree, open_site, side, rng), 1.0, visible=False))
        elif site != "none":
            lesions.append(Lesion(site, side, _place(tree, site, side, rng), 1.0))
    else:
        other = "left" if side == "right" else "right"
        for diseased in (side, other) if rng.random() < BILATERAL else (side,):
            site = str(rng.choice(list(CHRONIC_SITES), p=list(CHRONIC_SITES.values())))
            degree = 1.0 if rng.random() < OCCLUDED else float(rng.uniform(0.6, 0.97))
            lesions.append(Lesion(site, diseased, _place(tree, site, diseased, rng), degree))
    return Disease(kind, tuple(lesions), start_s, reach_s)


def antegrade_supply(tree: Tree, disease: Disease, *, seen_by_tof: bool = False) -> np.ndarray:
    """Fraction of its healthy flow that reaches each node from upstream, through the circle of Willis if need be.

    A stenosis limits flow from 50 % of the diameter on, down to 15 % at 99 % (assumption: critical-stenosis curve). The
    communicating arteries let blood enter at the ICA top, A2 and P2, as much as their calibre and their source allow.

    Args:
        tree: the patient's arteries.
        disease: what is wrong with them.
        seen_by_tof: leave out lesions that a TOF acquired now would not show.

    Returns:
        (n,) between 0 and 1.
    """
    passes = np.ones(len(tree.parent))
    for lesion in disease.lesions:
        if lesion.visible or not seen_by_tof:
            narrowed = np.clip((lesion.degree - 0.5) / 0.49, 0.0, 1.0)
            passes[lesion.node] *= 0.0 if lesion.degree >= 1 else 1.0 - 0.85 * narrowed**3
    alone = _flow_down(tree, passes, {})
    enters: dict[int, float] = {}
    for side, other in (("left", "right"), ("right", "left")):
        across = _carries(tree, "ACom") * alone[tree.trunk(f"{other} A1")[-1]]
        behind = _carries(tree, f"{side} PCom")
        enters[tree.trunk(f"{side} A2")[0]] = across
        enters[tree.trunk(f"{side} P2")[0]] = behind * alone[tree.trunk(f"{side} ICA")[-1]]
        enters[tree.trunk(f"{side} ICA top")[0]] = min(1.0, across + behind * alone[tree.trunk(f"{side} P1")[-1]])
    supply = _flow_down(tree, passes, enters)
    return np.maximum(supply, CHRONIC_FLOOR) if disease.kind == "stenosis" and not seen_by_tof else supply


def _flow_down(tree: Tree, passes: np.ndarray, enters: dict[int, float]) -> np.ndarray:
    """Supply (n,) from the inlets down; what a communicating artery brings joins above the node's own lesion."""
    supply = np.ones(len(tree.parent))
    for node, above in enumerate(tree.parent):
        arriving = supply[above] if above >= 0 else 1.0
        supply[node] = passes[node] * max(arriving, enters.get(node, 0.0))
    return supply


def _carries(tree: Tree, name: str) -> float:
    """What a communicating artery can carry, 0 to 1: nothing below 0.3 mm radius, all that is needed from 0.8 mm."""
    radius_mm = tree.communicating[name][1]
    return float(np.clip((radius_mm**2 - 0.3**2) / (0.8**2 - 0.3**2), 0.0, 1.0))


def _place(tree: Tree, site: str, side: str, rng: np.random.Generator) -> int:
    """A node of the site where the lesion sits; the T of the ICA is its last node, below the entry of collaterals."""
    if site == "M2":
        site = str(rng.choice(["M2 superior", "M2 inferior"]))
    if site == "distal":
        site = str(rng.choice(["M3 frontal", "M3 parietal", "M3 temporal"]))
    trunk = tree.trunk(f"{side} {site}")
    if site == "ICA top":
        return int(trunk[-1])
    if site == "ICA":
        return int(rng.choice(trunk[len(trunk) // 2 : -2]))
    return int(rng.choice(trunk[: max(1, len(trunk) // 2)]))
