"""The range of the training inputs: how their TOFs were prepared and what they were like, to compare others with.

Preprocessing leaves the record in the cohort's folder, training a copy beside the weights, and prediction reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes

from tof2perf.cohorts import layout
from tof2perf.profiles import PreprocessingProfile, build
from tof2perf.system.files import write_json
from tof2perf.volumes import nifti, space

RECORD = "inputs.json"  # in a preprocessed cohort, and beside the weights
PERCENTILES = (5, 25, 75, 95, 99)  # of a prepared TOF in the brain; its median is 1 by definition
# A value counts as unlike the training data when it leaves their range by more than this share of the range, or of the
# value itself where training patients are all but equal, as one scanner's voxels are (assumptions; none of 40 simulated
# patients who were held out was warned about).
RANGE_MARGIN = 0.5
VALUE_MARGIN = {"intensity": 0.02, "brain": 0.1, "extent": 0.1, "voxel": 0.1}
WORDS = {
    "intensity": "the {0}th percentile of brain intensity (medians)",
    "brain": "the brain in the field of view (ml)",
    "extent": "the field of view along {0} (mm)",
    "voxel": "the voxel size along {0} (mm)",
}


def record_inputs(
    folder: Path,
    tofs: Mapping[str, Path],
    *,
    settings: PreprocessingProfile,
    source: str,
    intensity: str | tuple[float, float] = "n4",
    quality: pd.DataFrame | None = None,
) -> None:
    """Write into a preprocessed cohort how its TOFs were prepared, and the range of those for training.

    Prediction from another TOF then prepares it in the same way, and warns if it lies outside that range.

    Args:
        folder: preprocessed cohort.
        tofs: the original TOFs of the training patients.
        settings: as for :func:`tof2perf.preprocessing.preprocess.preprocess_patient`.
        source: whose patients they are, :func:`tof2perf.cohorts.workspace.source`.
        intensity: as for :func:`tof2perf.preprocessing.preprocess.preprocess_patient`.
        quality: the patients' quality control. Without it, brain volumes come from the preprocessed masks, and the
            method of skull stripping is not recorded.
    """
    rows = []
    for patient, path in tofs.items():
        tof, mask = (nifti.read_volume(layout.preprocessed_path(folder, patient, name)) for name in ("tof", "mask"))
        inside = np.asarray(mask.dataobj) > 0
        volume = float(inside.sum()) * space.voxel_ml(mask) if quality is None else quality.brain_ml[patient]
        original = nib.Nifti1Image.from_filename(path).affine
        rows.append(describe(np.asarray(tof.dataobj), inside, tof.affine, original=original, brain_ml=volume))
    ranges = {name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in (rows or [{}])[0]}
    content = {
        "cohort": folder.name,
        "run": folder.parent.name,
        "source": source,
        "settings": asdict(settings),
        "intensity": intensity,
        "skull_strip": [] if quality is None else sorted(quality.skull_strip[list(tofs)].unique()),
        "patients": len(rows),
        "ranges": ranges,
    }
    write_json(folder / RECORD, content)


def describe(
    tof: np.ndarray, mask: np.ndarray, affine: np.ndarray, *, original: np.ndarray, brain_ml: float
) -> dict[str, float]:
    """Describe a TOF in a few numbers.

    Args:
        tof: prepared TOF (x, y, z) in medians of its brain, on a grid that fills the original's field of view.
        mask: boolean brain mask (x, y, z).
        affine: of that grid, (4, 4).
        original: affine of the TOF as it came, (4, 4).
        brain_ml: volume of the brain in it.

    Returns:
        ``intensity_pXX``, percentiles in the brain (medians); ``brain_ml``; ``extent_x_mm``, y and z of the field of
        view; ``voxel_x_mm``, y and z of the original, gaps between slices included. x runs left to right, z upwards.
    """
    levels = np.percentile(tof[mask], PERCENTILES)
    extent = voxel_sizes(affine) * tof.shape
    voxel = voxel_sizes(original)[nib.io_orientation(original)[:, 0].argsort()]
    found = {f"intensity_p{share:02}": level for share, level in zip(PERCENTILES, levels, strict=True)}
    found["brain_ml"] = brain_ml
    found |= {f"extent_{axis}_mm": mm for axis, mm in zip("xyz", extent, strict=True)}
    found |= {f"voxel_{axis}_mm": mm for axis, mm in zip("xyz", voxel, strict=True)}
    return {name: round(float(value), 4) for name, value in found.items()}


def read_record(path: Path) -> dict[str, Any]:
    """Read what :func:`record_inputs` wrote, ``settings`` and ``intensity`` as preprocessing takes them.

    Raises:
        CohortError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["settings"] = build(PreprocessingProfile, record["settings"], "settings")
        if not isinstance(record["intensity"], str):
            record["intensity"] = tuple(record["intensity"])
        return {key: record[key] for key in ("run", "source", "settings", "intensity", "skull_strip", "ranges")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise nifti.CohortError(f"{path}: cannot be read ({error!r}); preprocess the cohort again") from None


def unlike(found: dict[str, float], record: dict[str, Any]) -> list[str]:
    """Report in which respects a TOF lies outside the range of the training data, one sentence each.

    Args:
        found: from :func:`describe`.
        record: from :func:`read_record`.

    >>> unlike({"voxel_z_mm": 3.0}, {"ranges": {"voxel_z_mm": [0.7, 0.7]}})
    ['the voxel size along z (mm) is 3; in the training data 0.7 to 0.7']
    """
    sentences = []
    for name, (low, high) in record["ranges"].items():
        kind, _, rest = name.partition("_")
        margin = max(RANGE_MARGIN * (high - low), VALUE_MARGIN[kind] * abs(high))
        if not low - margin <= found[name] <= high + margin:
            what = WORDS[kind].format(rest.split("_")[0].lstrip("p0"))
            sentences.append(f"{what} is {found[name]:.4g}; in the training data {low:.4g} to {high:.4g}")
    return sentences
