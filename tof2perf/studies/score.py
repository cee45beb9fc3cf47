"""Score a generator on one split: error in physical units, and for Tmax the overlap of lesions."""

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
    generator: UNetGenerator, folder: Path, patients: Sequence[str], map_name: str, evaluation: Any
) -> dict[str, float]:
    """Generate one map of some patients and compare it with the measured one.

    Args:
        generator: from :func:`tof2perf.gan.inference.load_generator`, or one that is being trained.
        folder: preprocessed cohort.
        patients: the patients to score.
        map_name: which of the generator's maps.
        evaluation: profile section with the rules of a lesion.

    Returns:
        ``mae``, mean over patients of the mean absolute error inside the brain, in the map's unit; and for Tmax
        ``dice_mean``, ``dice_median``, ``contralateral`` and ``lesions``, the number of patients with a real lesion
        (nan and 0 if there is none).
    """
    errors, agreements = [], []
    for patient in patients:
        pair = load_pair(folder, patient, map_name)
        generated = generate(generator, pair.tof, pair.mask, map_name)
        errors.append(float(np.abs(generated - pair.target)[pair.mask].mean()))
        if map_name == "tmax":
            size = voxel_sizes(pair.affine)
            real, made = (segment(values, pair.mask, size, **evaluation.rules()) for values in (pair.target, generated))
            agreements.append(compare(real, made, pair.mask, size, axis=left_right_axis(pair.affine)))
    scores = {"mae": float(np.mean(errors))}
    if map_name == "tmax":
        analysed = [agreement for agreement in agreements if not agreement["excluded"]]
        overlaps = [float(agreement["dice"]) for agreement in analysed] or [float("nan")]
        scores |= {
            "dice_mean": float(np.mean(overlaps)),
            "dice_median": float(np.median(overlaps)),
            "contralateral": sum(agreement["laterality"] == "contralateral" for agreement in analysed),
            "lesions": len(analysed),
        }
    return scores
