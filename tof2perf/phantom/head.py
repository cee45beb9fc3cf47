"""Make a patient's head: template tissue maps under a random affine and a smooth deformation, in skull and scalp."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import interpolate, ndimage
from scipy.spatial.transform import Rotation

# Layers outside the brain, in mm from its surface (assumption; adult skull 5 to 8 mm, scalp 4 to 7 mm).
CSF_LAYER_MM = 2.0
SKULL_MM = (5.0, 8.0)
SCALP_MM = (4.0, 7.0)

# The template is a mean of young adults: the spaces of one head are sharper, those of patients near 70 are wider. Every
# head gets the template's own CSF times this factor (assumption; CSF is a fifth of the space inside the skull).
CSF_WIDENING = 1.75
MEAN_SCALE = 0.92  # the template's brain holds 1.9 l, an adult's about 1.45 l
CONTROL_SPACING_MM = 36.0  # of the deformation's control points: shapes of lobes differ, gyri do not fold over


@dataclass(frozen=True)
class Template:
    """MNI152 2009a symmetric tissue probabilities, RAS, (x, y, z), cisterns, fissures and sulci widened.

    Attributes:
        gm, wm: probabilities (x, y, z); inside the brain the rest is CSF.
        brain: 0 or 1 (x, y, z).
        depth: mm to the brain's surface (x, y, z), positive outside, negative inside.
        pull: gradient of the smoothed CSF fraction (3, x, y, z), 1/mm, 0 outside the brain.
        affine: voxel to template mm.
    """

    gm: np.ndarray
    wm: np.ndarray
    brain: np.ndarray
    depth: np.ndarray
    pull: np.ndarray
    affine: np.ndarray

    def towards_csf(self, points: np.ndarray) -> np.ndarray:
        """Read at template mm (n, 3) the direction (n, 3) in which the CSF fraction rises, and how fast (1/mm)."""
        index = (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        return np.stack([ndimage.map_coordinates(part, index.T, order=1) for part in self.pull], axis=1)


@dataclass(frozen=True)
class Head:
    """One patient's head on a regular grid in scanner space.

    Attributes:
        gm, wm, csf: tissue fractions (x, y, z), their sum is 1 inside the brain.
        brain: bool (x, y, z).
        skull, scalp: fractions outside the brain (x, y, z).
        affine: voxel to scanner mm, RAS.
        to_scanner: function from template mm (n, 3) to scanner mm (n, 3).
        to_template: its inverse.
    """

    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    brain: np.ndarray
    skull: np.ndarray
    scalp: np.ndarray
    affine: np.ndarray
    to_scanner: Callable[[np.ndarray], np.ndarray]
    to_template: Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the tissue maps shipped by nilearn (Fonov 2011, doi 10.1016/j.neuroimage.2010.07.033) at 2 mm, once."""
    from nilearn import datasets  # heavy, and only the simulation needs it

    gm, wm, brain = (
        load(resolution=2)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    mask = ndimage.binary_fill_holes(np.asarray(brain.dataobj) > 0)
    step_mm = abs(brain.affine[0, 0])
    depth = step_mm * (ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask))
    tissue = np.stack([np.clip(np.asarray(image.dataobj, dtype=np.float32), 0, 1) * mask for image in (gm, wm)])
    tissue /= np.maximum(tissue.sum(axis=0), 1.0)
    csf = mask - tissue.sum(axis=0)
    tissue *= np.maximum(1.0 - CSF_WIDENING * csf, 0.0) / np.maximum(1.0 - csf, 1e-6)
    fluid = np.where(mask, 1.0 - tissue.sum(axis=0), _layer(depth, -np.inf, CSF_LAYER_MM, step_mm))
    smooth = ndimage.gaussian_filter(fluid.astype(np.float32), 2.0 / step_mm)
    return Template(
        gm=tissue[0],
        wm=tissue[1],
        brain=mask.astype(np.float32),
        depth=depth.astype(np.float32),
        pull=np.stack(np.gradient(smooth, step_mm)) * mask,
        affine=np.asarray(brain.affine, dtype=float),
    )


def make_head(*, spacing_mm: float, rng: np.random.Generator, template: Template | None = None) -> Head:
    """Draw one head.

    The map from scanner to template space is an affine (size 4 % SD an axis, tilt up to 6 degrees, position up to 4 mm)
    after a cubic B-spline displacement of 3.5 mm SD at control points; all spreads are assumptions about adult heads.

    Args:
        spacing_mm: isotropic voxel size of the grid the head is sampled on.
        rng: source of all randomness.
        template: tissue maps; the shipped ones by default.

    Returns:
        The head on a grid that encloses the template.
    """
    template = template or load_template()
    shape = tuple(int(np.ceil(extent / spacing_mm)) for extent in (184.0, 224.0, 180.0))
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = np.array([0.0, -18.0, 6.0]) - spacing_mm * (np.array(shape) - 1) / 2

    scale = MEAN_SCALE * np.clip(rng.normal(1.0, 0.04, 3), 0.9, 1.1)
    tilt = np.deg2rad(rng.uniform(-6.0, 6.0, 3))
    linear = _rotation(tilt) @ np.diag(1.0 / scale)
    shift_mm = rng.uniform(-4.0, 4.0, 3)
    counts = [int(np.ceil(n * spacing_mm / CONTROL_SPACING_MM)) + 4 for n in shape]
    control = rng.normal(0.0, 3.5, (3, *counts))

    bases = [_spline_basis(np.arange(n) * spacing_mm, k) for n, k in zip(shape, counts, strict=True)]
    displacement = np.einsum("cijk,xi,yj,zk->cxyz", control, *bases, optimize=True)
    lower = affine[:3, 3]

    def to_template(points: np.ndarray) -> np.ndarray:
        """Scanner mm to template mm, (n, 3)."""
        # Control points are B-spline coefficients one spacing before the grid's corner, so no prefilter is needed.
        index = ((points - lower) / CONTROL_SPACING_MM + 1.0).T
        displaced = [ndimage.map_coordinates(part, index, order=3, prefilter=False) for part in control]
        return (points + np.stack(displaced, axis=1) - shift_mm) @ linear.T

    def to_scanner(points: np.ndarray) -> np.ndarray:
        """Template mm to scanner mm by fixed-point iteration: the displacement contracts, six steps suffice."""
        target = points @ np.linalg.inv(linear).T + shift_mm
        guess = target.copy()
        for _ in range(6):
            guess = guess + (target - (to_template(guess) @ np.linalg.inv(linear).T + shift_mm))
        return guess

    grid = np.stack(np.meshgrid(*[lower[a] + spacing_mm * np.arange(shape[a]) for a in range(3)], indexing="ij"))
    in_template = np.einsum("ab,bxyz->axyz", linear, grid + displacement - shift_mm[:, None, None, None])
    to_index = np.linalg.inv(template.affine)
    index = np.einsum("ab,bxyz->axyz", to_index[:3, :3], in_template) + to_index[:3, 3][:, None, None, None]

    depth = ndimage.map_coordinates(template.depth, index, order=1, mode="constant", cval=60.0, output=np.float32)
    brain = depth <= 0
    gm, wm = np.zeros((2, *shape), dtype=np.float32)
    for tissue, probability in ((gm, template.gm), (wm, template.wm)):
        tissue[brain] = ndimage.map_coordinates(probability, index[:, brain], order=1, output=np.float32)
    excess = np.maximum(gm + wm, 1.0)
    gm, wm = gm / excess, wm / excess
    skull_end = CSF_LAYER_MM + rng.uniform(*SKULL_MM)
    scalp_end = skull_end + rng.uniform(*SCALP_MM)
    inner = _layer(depth, -np.inf, CSF_LAYER_MM, spacing_mm)
    return Head(
        gm=gm,
        wm=wm,
        csf=np.where(brain, 1.0 - gm - wm, inner).astype(np.float32),
        brain=brain,
        skull=_layer(depth, CSF_LAYER_MM, skull_end, spacing_mm),
        scalp=_layer(depth, skull_end, scalp_end, spacing_mm),
        affine=affine,
        to_scanner=to_scanner,
        to_template=to_template,
    )


def smooth_field(
    shape: tuple[int, ...], *, spacing_mm: tuple[float, ...], length_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a smooth field of zero mean and unit SD (x, y, z): cubic splines through noise ``length_mm`` apart."""
    counts = [int(np.ceil(n * s / length_mm)) + 4 for n, s in zip(shape, spacing_mm, strict=True)]
    bases = [_spline_basis(np.arange(n) * s, k, length_mm) for n, s, k in zip(shape, spacing_mm, counts, strict=True)]
    field = np.einsum("ijk,xi,yj,zk->xyz", rng.standard_normal(counts), *bases, optimize=True)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _spline_basis(positions_mm: np.ndarray, count: int, spacing_mm: float = CONTROL_SPACING_MM) -> np.ndarray:
    """Compute cubic B-spline weights (n, count) of control points ``spacing_mm`` apart, the first before zero."""
    knots = (np.arange(count + 4) - 3.0) * spacing_mm
    inside = np.clip(positions_mm, knots[3], knots[count] - 1e-6)
    return interpolate.BSpline.design_matrix(inside, knots, 3).toarray()


def _layer(depth_mm: np.ndarray, start_mm: float, end_mm: float, spacing_mm: float) -> np.ndarray:
    """Compute the fraction of each voxel between two depths outside the brain, with edges one voxel wide."""
    rise = np.clip((depth_mm - start_mm) / spacing_mm + 0.5, 0.0, 1.0) if np.isfinite(start_mm) else 1.0
    return (rise * np.clip((end_mm - depth_mm) / spacing_mm + 0.5, 0.0, 1.0)).astype(np.float32)


def _rotation(angles_rad: np.ndarray) -> np.ndarray:
    """Matrix of a rotation about x, then y, then z."""
    return Rotation.from_euler("xyz", angles_rad).as_matrix()
