"""Grow the arterial tree: branches grow from a hand-placed circle of Willis into the brain they feed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import interpolate, spatial

STEP_MM = 3.0  # length of a grown edge
# Trunks move into CSF by so many steps of this times the gradient, up to 5 mm in all where it is steep (assumption).
SETTLING_STEPS, SETTLING_MM2 = 16, 6.0
KILL_MM = 4.0  # a tissue point this near to a branch is supplied

# Murray's law (r^3 of a parent is the sum over its children) leaves one free scale: the radius of an end branch, set
# for each patient so that M1 has its diameter; flow goes with r^3, so velocity with r (constant wall shear).
M1_DIAMETER_MM, M1_SPREAD_MM = 3.1, 0.35  # mean and SD over patients (assumption)
M1_FLOW_ML_S = 2.5  # 21 % of 717 ml/min (doi 10.1038/jcbfm.2014.241), 33 cm/s at that diameter
CAVERNOUS_DIAMETER_MM = 5.0  # the carotid below the circle is wider than Murray's law makes it (assumption)

_Lines = dict[tuple[str, str | None], list[tuple[float, float, float]]]

# Centre lines of the right side in template mm (x, y, z), hand-placed along cisterns and fissures (assumption: textbook
# anatomy read against the MNI152 template). The left side is their mirror image. Key: (segment, parent segment).
_SIDED: _Lines = {
    ("ICA", None): [
        (26, -24, -62), (27, -22, -48), (20, -14, -38), (13, -8, -33), (12, 3, -30), (10, 7, -23), (12, 1, -19)
    ],
    ("ICA top", "ICA"): [(12, 1, -19), (13, 0, -14)],
    ("M1", "ICA top"): [(13, 0, -14), (20, 2, -15), (27, 2, -17), (33, 1, -16)],
    ("M2 superior", "M1"): [(33, 1, -16), (38, 6, -9), (40, 10, 0), (41, 8, 10), (46, 6, 16), (52, 2, 22)],
    ("M2 inferior", "M1"): [(33, 1, -16), (39, -4, -11), (41, -14, -3), (42, -24, 6), (48, -32, 10), (55, -40, 14)],
    ("M3 frontal", "M2 superior"): [(40, 10, 0), (43, 20, 4), (48, 28, 8), (46, 38, 12)],
    ("M3 parietal", "M2 inferior"): [(42, -24, 6), (47, -30, 18), (52, -36, 30), (48, -42, 40)],
    ("M3 temporal", "M2 inferior"): [(39, -4, -11), (47, -2, -22), (54, -8, -24), (57, -22, -18)],
    ("A1", "ICA top"): [(13, 0, -14), (8, 6, -15), (2.5, 11, -13)],
    ("A2", "A1"): [
        (2.5, 11, -13), (2, 22, -10), (2, 34, 0), (2, 38, 12), (2, 30, 24), (2, 14, 32), (2, -6, 36), (2, -26, 38)
    ],
    ("A3 frontal", "A2"): [(2, 38, 12), (3, 48, 22), (4, 44, 36)],
    ("A3 central", "A2"): [(2, 14, 32), (3, 10, 46), (4, 0, 58)],
    ("P1", "BA"): [(0, -17, -15), (6, -18, -14), (13, -21, -14)],
    ("P2", "P1"): [(13, -21, -14), (20, -28, -10), (19, -38, -5), (16, -50, 0)],
    ("P3 calcarine", "P2"): [(16, -50, 0), (12, -64, 4), (9, -80, 6), (8, -92, 4)],
    ("P3 parietal", "P2"): [(16, -50, 0), (12, -58, 14), (11, -70, 26)],
    ("P3 temporal", "P2"): [(20, -28, -10), (28, -38, -14), (34, -52, -14), (36, -66, -12)],
    ("SCA", "BA"): [(0, -18, -19), (8, -22, -20), (18, -32, -22), (22, -46, -20), (18, -60, -18)],
    ("AICA", "BA"): [(0, -21, -32), (12, -26, -36), (22, -38, -38), (26, -52, -38)],
    ("PICA", "BA"): [(0, -26, -46), (10, -36, -50), (14, -50, -48), (14, -62, -46)],
}  # fmt: skip
_MIDLINE: _Lines = {("BA", None): [(0, -32, -62), (0, -26, -46), (0, -21, -32), (0, -18, -19), (0, -17, -15)]}
# Communicating arteries join both sides of the circle; they carry no net flow in health, so they are not in the tree.
_COMMUNICATING = {
    "PCom": [(11.5, 3, -20.5), (12, -8, -18), (13, -21, -14)],
    "ACom": [(2.5, 11, -13), (0, 11.5, -12.5), (-2.5, 11, -13)],
}

# Compartments keep a branch on its side of falx and tentorium while it grows.
LEFT, RIGHT, POSTERIOR = 0, 1, 2
_BARREN = ("ICA", "ICA top", "BA", "PCom", "ACom")  # segments from which no branch sprouts
_POSTERIOR_SEGMENTS = ("SCA", "AICA", "PICA")


@dataclass(frozen=True)
class Tree:
    """An arterial tree; node k hangs on ``parent[k]`` (-1 at the three inlets), parents come before children.

    Attributes:
        position: mm (n, 3).
        parent: (n,) int.
        segment: index into ``names`` (n,) int; a grown branch keeps the segment it sprouted from.
        names: segment names with a side, e.g. ``right M1``; ``BA`` has none.
        trunk_nodes: the first so many nodes are the hand-placed centre lines, the others grew.
        radius_mm: (n,), Murray's law except in the carotid below the circle.
        flow_ml_s: (n,) in health.
        communicating: centre line (m, 3) and radius in mm of ``left PCom``, ``right PCom`` and ``ACom``.
    """

    position: np.ndarray
    parent: np.ndarray
    segment: np.ndarray
    names: tuple[str, ...]
    trunk_nodes: int
    radius_mm: np.ndarray
    flow_ml_s: np.ndarray
    communicating: dict[str, tuple[np.ndarray, float]]

    @property
    def leaves(self) -> np.ndarray:
        """Indices of the end branches."""
        return np.setdiff1d(np.arange(len(self.parent)), self.parent)

    def length_mm(self) -> np.ndarray:
        """Length of the edge to the parent (n,), 0 at inlets."""
        length = np.linalg.norm(self.position - self.position[self.parent], axis=1)
        return np.where(self.parent < 0, 0.0, length)

    def velocity_mm_s(self) -> np.ndarray:
        """Mean blood velocity (n,) in health: flow over cross-section."""
        return 1000.0 * self.flow_ml_s / (np.pi * self.radius_mm**2)

    def accumulate(self, per_edge: np.ndarray) -> np.ndarray:
        """Sum ``per_edge`` (n,) from the inlet down to each node (n,)."""
        total = per_edge.astype(float).copy()
        for node in np.flatnonzero(self.parent >= 0):
            total[node] += total[self.parent[node]]
        return total

    def below(self, node: int) -> np.ndarray:
        """The nodes fed through ``node``, itself included (n,) bool."""
        fed = np.zeros(len(self.parent), dtype=bool)
        fed[node] = True
        for child in range(node + 1, len(fed)):
            fed[child] = self.parent[child] >= 0 and fed[self.parent[child]]
        return fed

    def trunk(self, name: str) -> np.ndarray:
        """Indices of a segment's centre line from proximal to distal."""
        return np.flatnonzero(self.segment[: self.trunk_nodes] == self.names.index(name))


def compartment(points: np.ndarray) -> np.ndarray:
    """Assign template points (n, 3) in mm to left or right above the tentorium, or to the posterior fossa (n,).

    The tentorium is a roof that falls 0.35 mm a mm to both sides, the brainstem a column in front of it (assumption).
    """
    x, y, z = points.T
    fossa = ((y < -32) & (z < -6 - 0.35 * np.abs(x))) | ((np.abs(x) < 17) & (y > -40) & (y < -14) & (z < -16))
    return np.where(fossa, POSTERIOR, np.where(x < 0, LEFT, RIGHT))


def grow_tree(*, tissue: np.ndarray, towards_csf: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> Tree:
    """Grow one patient's arteries.

    The hand-placed trunks are jittered and drawn into the cisterns, fissures and sulci beside them. Then branches grow
    by space colonisation (Runions 2007, doi 10.2312/NPH/NPH07/063-070): every tissue point without supply pulls the
    nearest branch of its own compartment towards itself until it is reached.

    Args:
        tissue: points in template mm (m, 3) that need blood, drawn in proportion to perfusion.
        towards_csf: gradient of the CSF fraction (n, 3) in 1/mm at template mm (n, 3).
        rng: source of all randomness.

    Returns:
        The tree in template space.
    """
    names, position, parent, segment = _trunks(rng)
    trunk_nodes = len(position)
    for _ in range(SETTLING_STEPS):
        moves = np.where(parent[:, None] >= 0, SETTLING_MM2 * towards_csf(position), 0.0)
        moves[np.abs(position[:, 0]) < 3.0, 0] = 0.0  # both A2 share one fissure and stay side by side
        position = position + _relaxed(moves, parent)  # neighbours move alike, so the course stays smooth
    home = compartment(tissue)
    for part in (LEFT, RIGHT, POSTERIOR):
        fertile = np.array([_sprouts(name, part) for name in names])
        position, parent, segment = _colonise(position, parent, segment, fertile, tissue[home == part])
    for _ in range(2):  # grown branches zigzag from point to point; arteries bend smoothly
        position[trunk_nodes:] = _relaxed(position, parent)[trunk_nodes:]

    cubed = np.zeros(len(position))  # Murray: r^3 adds up from the end branches
    cubed[np.setdiff1d(np.arange(len(position)), parent)] = 1.0
    for node in range(len(position) - 1, -1, -1):
        if parent[node] >= 0:
            cubed[parent[node]] += cubed[node]
    first_m1 = [np.flatnonzero(segment == names.index(f"{side} M1"))[0] for side in ("left", "right")]
    m1_radius_mm = np.clip(rng.normal(M1_DIAMETER_MM, M1_SPREAD_MM), 2.3, 4.0) / 2
    unit = m1_radius_mm / np.cbrt(cubed[first_m1].mean())
    radius_mm = unit * np.cbrt(cubed)
    flow_ml_s = M1_FLOW_ML_S * cubed / cubed[first_m1].mean()
    for side in ("left", "right"):
        carotid = np.flatnonzero(segment == names.index(f"{side} ICA"))
        taper = np.linspace(CAVERNOUS_DIAMETER_MM / 2, radius_mm[carotid[-1]], len(carotid))
        radius_mm[carotid] = np.maximum(taper, radius_mm[carotid])
    communicating = {}
    for name, line in _COMMUNICATING.items():
        for side, sign in (("right ", 1), ("left ", -1)) if name == "PCom" else (("", 1),):
            # Half of all circles are incomplete; calibre decides what a circle can carry (assumption, mm).
            radius = rng.choice([0.25, rng.uniform(0.4, 0.9)], p=[0.4, 0.6])
            communicating[side + name] = (_spline(np.array(line) * [sign, 1, 1], STEP_MM / 2), float(radius))
    return Tree(position, parent, segment, names, trunk_nodes, radius_mm, flow_ml_s, communicating)


def _trunks(rng: np.random.Generator) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Place the jittered centre lines of both sides as nodes, parents first."""
    lines = dict(_MIDLINE)
    for (name, origin), line in _SIDED.items():
        for side, sign in (("left", -1), ("right", 1)):
            above = origin if origin in (None, "BA") else f"{side} {origin}"
            lines[(f"{side} {name}", above)] = [(sign * x, y, z) for x, y, z in line]
    names = tuple(name for name, _ in lines)
    nominal = {name: line for (name, _), line in lines.items()}
    position: list[np.ndarray] = []
    parent: list[int] = []
    segment: list[int] = []
    jittered: dict[str, np.ndarray] = {}
    for index, ((name, origin), line) in enumerate(lines.items()):
        points = np.array(line, dtype=float)
        points[1:] += rng.normal(0.0, 1.2, points[1:].shape)
        if origin is not None:  # a branch leaves its parent where that point of the parent's line came to lie
            junction = jittered[origin][nominal[origin].index(line[0])]
            candidates = np.flatnonzero(np.array(segment) == names.index(origin))
            start = candidates[np.argmin(np.linalg.norm(np.array(position)[candidates] - junction, axis=1))]
            points[0] = position[start]
        jittered[name] = points
        smooth = _spline(points, STEP_MM)
        for step, point in enumerate(smooth if origin is None else smooth[1:]):
            hangs_on = (-1 if origin is None else start) if step == 0 else len(position) - 1
            position.append(point)
            parent.append(hangs_on)
            segment.append(index)
    return names, np.array(position), np.array(parent), np.array(segment)


def _sprouts(name: str, side: int) -> bool:
    """Tell whether branches of this segment may grow into a compartment."""
    side_name, _, bare = name.rpartition(" ") if name.split(" ")[0] not in ("left", "right") else name.partition(" ")
    if bare in _BARREN:
        return False
    if side == POSTERIOR:
        return bare in _POSTERIOR_SEGMENTS
    return bare not in _POSTERIOR_SEGMENTS and side_name == ("left", "right")[side]


def _colonise(
    position: np.ndarray, parent: np.ndarray, segment: np.ndarray, fertile: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grow branches from nodes of fertile segments until all targets are reached or growth stalls."""
    for _ in range(80):
        sprouting = np.flatnonzero(fertile[segment])
        nearest = spatial.cKDTree(position[sprouting])
        distance, at = nearest.query(targets)
        targets, distance, at = targets[distance > KILL_MM], distance[distance > KILL_MM], at[distance > KILL_MM]
        if not len(targets):
            break
        pull = np.zeros((len(sprouting), 3))
        np.add.at(pull, at, (targets - position[sprouting[at]]) / distance[:, None])
        growing = np.unique(at)
        norm = np.linalg.norm(pull[growing], axis=1)
        growing = growing[norm > 1e-3]
        tips = position[sprouting[growing]] + STEP_MM * pull[growing] / norm[norm > 1e-3, None]
        fresh = nearest.query(tips)[0] > STEP_MM / 3  # two opposed targets can pull a branch back onto itself
        if not fresh.any():
            break
        position = np.concatenate([position, tips[fresh]])
        parent = np.concatenate([parent, sprouting[growing[fresh]]])
        segment = np.concatenate([segment, segment[sprouting[growing[fresh]]]])
    return position, parent, segment


def _relaxed(position: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Move each node half-way towards the mean of its parent and its children; ends stay."""
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    total = np.zeros_like(position)
    np.add.at(total, parent[parent >= 0], position[parent >= 0])
    middle = (total / np.maximum(children, 1)[:, None] + position[parent]) / 2
    moves = (children > 0) & (parent >= 0)
    return np.where(moves[:, None], (position + middle) / 2, position)


def _spline(points: np.ndarray, step_mm: float) -> np.ndarray:
    """Resample a centre line (k, 3) every ``step_mm`` along a smooth curve through its points."""
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = interpolate.PchipInterpolator(chord, points)
    return curve(np.linspace(0.0, chord[-1], max(2, int(np.ceil(chord[-1] / step_mm)) + 1)))
