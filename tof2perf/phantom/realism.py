"""What the simulated cohorts hold, patient by patient, in the terms in which the literature describes real ones."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from tof2perf.cohorts import layout
from tof2perf.phantom.haemodynamics import HYPOPERFUSED_DELAY_S, LATE_S
from tof2perf.volumes import nifti

ZONES = {"oligemia": (4.0, 6.0), "penumbra": (6.0, 10.0), "core": (10.0, np.inf)}  # measured Tmax in s (assumption)
SMALLEST_ML = 2.0  # of a zone whose ratio to the other side is worth stating
TERRITORY_ML = 50.0  # the same of a starved territory: less is the rim of cisterns and ventricles, where truth is mixed


def describe_patient(folder: Path, patient: str) -> dict[str, float]:
    """Measured haemodynamics of one simulated patient and how far they lie from the truth.

    A zone's other side is found by reflecting the maps about the brain's middle plane, and only voxels that are brain
    with a measured Tmax below 4 s there count.

    Args:
        folder: the cohort's BIDS folder, with ``derivatives/truth``.
        patient: ``sub-XXXX``.

    Returns:
        ``hypoperfused_ml``: true volume that block-circulant SVD is expected to read as Tmax above 6 s.
        ``lesion_ml``, ``late_ml``: volumes with measured Tmax above 6 and 10 s.
        ``true_lesion_ml``: that with true Tmax above 6 s; ``lesion_dice``: of true and measured, NaN without one.
        ``hir``: hypoperfusion intensity ratio, late over lesion, NaN below 2 ml of lesion.
        ``tmax_median_s``, ``tmax_95_s``: median and 95th percentile of measured Tmax in the brain.
        ``rcbf_``, ``rcbv_``, ``rmtt_`` and a zone: mean over that of the other side, NaN below 2 ml. Zones of measured
        Tmax are ``oligemia``, ``penumbra`` and ``core``; ``territory`` truly lacks antegrade supply (NaN
        below 50 ml).
        ``cbf`` (ml/100 g/min), ``cbv`` (ml/100 g): measured means outside the zones; ``_over_true``: over the truth.
    """

    def volume(path: Path) -> np.ndarray:
        return nifti.read_volume(path).get_fdata(dtype=np.float32)

    image = nifti.read_volume(layout.map_path(folder, patient, "tmax"))
    voxel_ml = float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000.0
    found = {key: volume(layout.map_path(folder, patient, key)) for key in ("tmax", "cbf", "cbv", "mtt")}
    true = {key: volume(layout.truth_path(folder, patient, key)) for key in ("tmax", "cbf", "cbv", "delay", "supply")}
    brain = (true["cbf"] > 8.0) & (found["cbf"] > 0) | ((found["tmax"] > LATE_S) & (true["cbf"] > 2.0))
    # The residue of a voxel at the rim may jump to an end of the search: a median filter takes single voxels away.
    tmax = np.where(brain, ndimage.median_filter(found["tmax"], 3), 0.0)
    lesion, truly = (tmax > LATE_S) & brain, (true["tmax"] > LATE_S) & brain
    row = {
        "hypoperfused_ml": ((true["delay"] > HYPOPERFUSED_DELAY_S) & (true["cbf"] > 2.0)).sum() * voxel_ml,
        "lesion_ml": lesion.sum() * voxel_ml,
        "late_ml": ((tmax > 10.0) & brain).sum() * voxel_ml,
        "true_lesion_ml": truly.sum() * voxel_ml,
        "tmax_median_s": float(np.median(tmax[brain])),
        "tmax_95_s": float(np.percentile(tmax[brain], 95)),
    }
    row["hir"] = row["late_ml"] / row["lesion_ml"] if row["lesion_ml"] > SMALLEST_ML else np.nan
    overlap = 2.0 * (lesion & truly).sum() / max(lesion.sum() + truly.sum(), 1)
    row["lesion_dice"] = float(overlap) if row["true_lesion_ml"] > SMALLEST_ML else np.nan
    calm = brain & (tmax < ZONES["oligemia"][0]) & (true["supply"] > 0.95)
    mirrored = {key: _mirrored(values, image.affine, brain) for key, values in found.items()}
    other_side = _mirrored(calm.astype(np.float32), image.affine, brain) > 0.5
    # At the surface the truth on the DSC's grid is mixed with the outside, where it is 0.
    starved = (true["supply"] < 0.8) & ndimage.binary_erosion(brain, iterations=2)
    zones = {zone: (tmax > low) & (tmax <= high) for zone, (low, high) in ZONES.items()}
    for zone, where in (zones | {"territory": starved}).items():
        inside = brain & where & other_side
        enough = inside.sum() * voxel_ml > (TERRITORY_ML if zone == "territory" else SMALLEST_ML)
        for key in ("cbf", "cbv", "mtt"):
            ratio = found[key][inside].mean() / mirrored[key][inside].mean() if enough else np.nan
            row[f"r{key}_{zone}"] = float(ratio)
    for key in ("cbf", "cbv"):
        row[key] = float(found[key][calm].mean())
        row[f"{key}_over_true"] = float(found[key][calm].mean() / true[key][calm].mean())
    return row


def _mirrored(values: np.ndarray, affine: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """A map (x, y, z) reflected left to right about the plane x = centre of the brain's mass."""
    x = affine[0, 0] * np.argwhere(brain)[:, 0].mean() + affine[0, 3]
    matrix = np.eye(4)
    matrix[0] = [-1.0, 0.0, 0.0, 2.0 * x]
    to_voxel = np.linalg.inv(affine) @ matrix @ affine
    return ndimage.affine_transform(values, to_voxel[:3, :3], to_voxel[:3, 3], order=1, mode="constant")
