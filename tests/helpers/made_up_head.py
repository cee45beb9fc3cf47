"""A head that is known at every point, and a patient's images of it."""

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy.spatial.transform import Rotation

from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile, PreprocessingProfile
from tof2perf.volumes.nifti import write_volume

COHORT = CohortProfile(train=1, validation=1, test=1)
SETTINGS = PreprocessingProfile(shape=(20, 24, 12), skull_strip="auto", n4_mm=12.0, registration_mm=5.0)
WAVES = np.random.default_rng(1).normal(0, 0.12, (12, 3))  # rad/mm: structure of about 5 cm, finer than a coil's bias
MOTION = from_matvec(Rotation.from_euler("xyz", (3, -4, 5), degrees=True).as_matrix(), (3.0, -2.0, 4.0))


def grid(shape, voxel_mm):
    """Affine of a grid centred on the head."""
    return from_matvec(np.diag(voxel_mm), -np.multiply(voxel_mm, np.subtract(shape, 1)) / 2)


def head(points):
    """Tissue (0 to 1, smooth), brain and scalp of a head that is known at every point (mm)."""
    tissue = 0.5 + 0.5 * np.tanh(np.sin(points @ WAVES.T + np.arange(12)).mean(axis=-1) * 4)
    radius = np.linalg.norm((points - (0, 0, 5)) / (58, 72, 52), axis=-1) + 0.04 * np.sin(points[..., 1] / 15)
    return tissue, radius < 1, (radius > 1.12) & (radius < 1.25)


def scan(affine, shape, motion=None):
    """Sample the head on a grid, after it has moved."""
    points = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    return head(points if motion is None else apply_affine(np.linalg.inv(motion), points))


def images(rng):
    """TOF, its brain, DSC reference, and maps of one patient."""
    tof_shape, dsc_shape = (44, 54, 30), (34, 38, 26)
    tof_affine, dsc_affine = grid(tof_shape, (3.5, 3.5, 3.5)), grid(dsc_shape, (5.0, 5.0, 5.0))
    tissue, brain, scalp = scan(tof_affine, tof_shape)
    tof = np.where(brain, 300 + 200 * tissue, 20.0) + 400 * scalp + rng.normal(0, 5, tof_shape)
    tissue, moved, _ = scan(dsc_affine, dsc_shape, MOTION)
    reference = np.where(moved, 900 - 400 * tissue**2, 10.0) + rng.normal(0, 5, dsc_shape)
    maps = {name: np.where(moved, k * (1 + tissue), 0) for k, name in enumerate(MAPS, start=1)}
    return {
        "tof": nib.Nifti1Image(tof.astype(np.float32), tof_affine),
        "brain": nib.Nifti1Image(brain.astype(np.float32), tof_affine),
        "dscref": nib.Nifti1Image(reference.astype(np.float32), dsc_affine),
    } | {name: nib.Nifti1Image(values.astype(np.float32), dsc_affine) for name, values in maps.items()}


def write(folder, patient, parts):
    for name, image in parts.items():
        write_volume(layout.file_path(folder, patient, name), np.asarray(image.dataobj), image.affine)
