"""Read the oracle's maps of simulated patients; ``tof2perf.phantom.oracle`` makes them."""

from pathlib import Path

import nibabel as nib
import numpy as np

from tof2perf.maps import MAPS
from tof2perf.volumes.nifti import read_volume
from tof2perf.volumes.space import resample_masked


def read_oracle(folder: Path, patient: str, map_name: str, *, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Read the oracle's map of a patient on the grid of a brain mask.

    Args:
        folder: the oracle's maps.
        patient: ``sub-XXXX``.
        map_name: one of the five maps.
        mask: (x, y, z) brain mask of the preprocessed patient.
        affine: its affine.

    Returns:
        float32 (x, y, z) in the map's unit, 0 outside the mask.

    Raises:
        CohortError: a map is missing or unreadable.
    """
    images = {name: read_volume(folder / f"{patient}_{name}.nii.gz") for name in MAPS}
    support = np.any([np.asarray(image.dataobj) != 0 for image in images.values()], axis=0)
    grid = nib.Nifti1Image(np.asarray(mask, dtype=np.uint8), affine)
    resampled, _ = resample_masked({map_name: images[map_name]}, support, grid)
    return np.where(mask, resampled[map_name], np.float32(0))
