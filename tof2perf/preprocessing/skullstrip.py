"""Skull stripping of a TOF: the paper's tool where it is installed, one that ships its weights, or a given mask."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from tof2perf.volumes.nifti import CohortError, read_mask
from tof2perf.volumes.space import LARGEST_BRAIN_ML, NO_HEAD, resample, voxel_ml

# Voxels an axis of the head that deepbet sees. Its own 256 x 256 x 256 took three times as long for a Dice of .983
# instead of .982 (five simulated TOF); fewer voxels, or as many along the short axis of a slab, cost accuracy.
DEEPBET_GRID = (192, 192, 160)
HEAD_MM = 170.0  # height of the whole heads that deepbet was trained on (assumption)
SMALLEST_BRAIN_ML = 150.0  # less than this in a TOF slab is a failed skull strip (assumption)


def strip_skull(
    tof: nib.Nifti1Image, *, method: str, given: nib.Nifti1Image | None = None, source: Path | str = "TOF"
) -> np.ndarray:
    """Find the brain in a TOF.

    Args:
        tof: volume (x, y, z) in closest canonical orientation.
        method: ``synthstrip`` (the paper's tool: Hoopes 2022, doi 10.1016/j.neuroimage.2022.119474; ``mri_synthstrip``
            must be on the PATH), ``deepbet`` (Fisch 2024, doi 10.1016/j.compbiomed.2024.108845), ``given``, or
            ``maps``: where the perfusion maps hold brain.
        given: brain mask for ``given`` and ``maps``, 0 and 1 on any grid of the same world space.
        source: file named in errors.

    Returns:
        Boolean mask (x, y, z).

    Raises:
        CohortError: the tool failed or found no brain.
    """
    if method in ("given", "maps") and given is not None:
        mask = resample(given, tof) > 0.5
    else:
        mask = _synthstrip(tof, source) if method == "synthstrip" else _deepbet(tof)
    volume_ml = mask.sum() * voxel_ml(tof)
    if volume_ml <= (0.0 if method == "given" else SMALLEST_BRAIN_ML):
        raise CohortError(
            f"{source}: skull stripping ({method}) found no brain; check image and affine, or give another brain mask"
        )
    if volume_ml > LARGEST_BRAIN_ML:
        raise CohortError(f"{source}: a brain of {volume_ml:,.0f} ml ({method}); {NO_HEAD}")
    if np.median(np.asarray(tof.dataobj)[mask]) <= 0:
        raise CohortError(f"{source}: the brain mask ({method}) lies on background; check its affine against the TOF's")
    return mask


def choose_method(wanted: str, paths: dict[str, Path], *, magnetic: bool = True) -> str:
    """Choose the method for ``auto``: the mask that the user gave, else the paper's tool, else deepbet.

    deepbet comes with the package and knows magnetic resonance only; for CT the brain is then where the maps are.

    Args:
        wanted: ``auto`` or one of the methods below, as ``skull_strip`` of the profile.
        paths: the patient's files by name; ``brain`` is a given mask.
        magnetic: the input is from magnetic resonance, not from CT.

    Returns:
        ``given``, ``synthstrip``, ``deepbet`` or ``maps``.

    Raises:
        CohortError: no mask where one is wanted.
    """
    if wanted == "given" and "brain" not in paths:
        raise CohortError(f"{paths['tof']}: skull_strip is 'given' but there is no brain mask; add it or use auto")
    if wanted != "auto":
        return wanted
    if "brain" in paths:
        return "given"
    if shutil.which("mri_synthstrip"):
        return "synthstrip"
    return "deepbet" if magnetic else "maps"


def _synthstrip(tof: nib.Nifti1Image, source: Path | str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        image, mask = Path(folder) / "tof.nii.gz", Path(folder) / "mask.nii.gz"
        nib.save(tof, image)
        try:
            subprocess.run(["mri_synthstrip", "-i", image, "-m", mask], check=True, capture_output=True, text=True)
            return resample(read_mask(mask), tof) > 0.5
        except (OSError, subprocess.CalledProcessError, CohortError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
            remedy = "repair it or set skull_strip to deepbet in the profile"
            raise CohortError(f"{source}: mri_synthstrip failed ({reason}); {remedy}") from None


def _deepbet(tof: nib.Nifti1Image) -> np.ndarray:
    """Run deepbet on a TOF slab made to look like what it knows: a whole head without glaring vessels."""
    import torch  # heavy, and not needed where masks are given

    values = np.asarray(tof.dataobj, dtype=np.float32)
    slices = values.shape[2]
    missing = max(0, round(HEAD_MM / tof.header.get_zooms()[2]) - slices)
    below = missing // 3  # a slab around the circle of Willis lacks more of the head above than below
    head = np.pad(np.minimum(values, np.percentile(values, 99)), ((0, 0), (0, 0), (below, missing - below)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one order of summation: the same mask whatever the number of cores
    try:
        tool = _deepbet_model()
        found = tool.postprocess(tool.run_model(head, shape=DEEPBET_GRID) > 0.5)
    except (AssertionError, ValueError):  # deepbet's ways of saying that nothing looked like a brain
        return np.zeros(values.shape, bool)
    finally:
        torch.set_num_threads(threads)
    return found[:, :, below : below + slices].astype(bool)


@functools.cache
def _deepbet_model():
    """Load deepbet's weights once a process; on the CPU, so that masks do not depend on the machine's accelerator."""
    from deepbet.bet import BrainExtraction

    return BrainExtraction(no_gpu=True)
