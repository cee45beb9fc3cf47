"""Score a generator on one split: error in physical units, and overlap of lesions if it makes Tmax."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from tof2perf.gan.inference import generate
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.pairs import load_pair
from tof2perf.metrics.lesion_agreement import compare
from tof2perf.metrics.lesions import segment
from tof2perf.volumes.hemispheres import left_right_axis


def score(
    generator: UNetGenerator, folder: Path, patients: Sequence[str], maps: Sequence[str], evaluation: Any
) -> list[dict[str, float | str]]:
    """Generate maps of some patients and compare them with the measured ones.

    Args:
        generator: from :func:`tof2perf.gan.inference.load_generator`, or one that is being trained.
        folder: preprocessed cohort.
        patients: the patients to score.
        maps: which of the generator's maps.
        evaluation: profile section with the rules of a lesion.

    Returns:
        One row per map: ``map``; ``mae``, mean over patients of the mean absolute error inside the brain, in the map's
        unit; and for Tmax ``dice_mean``, ``dice_median``, ``contralateral`` and ``lesions``, the number of patients
        with a real lesion (nan and 0 if there is none).
    """
    rows: list[dict[str, float | str]] = []
    for name in maps:
        errors, agreements = [], []
        for patient in patients:
            pair = load_pair(folder, patient, name)
            generated = generate(generator, pair.tof, pair.mask, name)
            errors.append(float(np.abs(generated - pair.target)[pair.mask].mean()))
            if name == "tmax":
                sizes = voxel_sizes(pair.affine)
                real, made = (
                    segment(values, pair.mask, sizes, **evaluation.rules()) for values in (pair.target, generated)
                )
                agreements.append(compare(real, made, pair.mask, sizes, axis=left_right_axis(pair.affine)))
        rows.append({"map": name, "mae": float(np.mean(errors))})
        if name == "tmax":
            analysed = [agreement for agreement in agreements if not agreement["excluded"]]
            overlaps = [float(agreement["dice"]) for agreement in analysed] or [float("nan")]
            rows[-1] |= {
                "dice_mean": float(np.mean(overlaps)),
                "dice_median": float(np.median(overlaps)),
                "contralateral": sum(agreement["laterality"] == "contralateral" for agreement in analysed),
                "lesions": len(analysed),
            }
    return rows
