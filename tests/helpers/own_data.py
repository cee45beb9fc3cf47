"""A small cohort as a clinic might hand it over: only what the contract asks for, on tiny grids."""

from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import write_volume

TOF_SHAPE, MAP_SHAPE = (22, 26, 14), (16, 18, 12)
TOF_AFFINE = np.array([[8.0, 0, 0, -84], [0, 8, 0, -100], [0, 0, 8, -52], [0, 0, 0, 1]])
MAP_AFFINE = np.array([[12.0, 0, 0, -90], [0, 12, 0, -102], [0, 0, 12, -66], [0, 0, 0, 1]])
LEVELS = {"tmax": 3.0, "cbf": 45.0, "cbv": 4.0, "mtt": 5.0, "ttp": 7.0}


def brain(shape, affine):
    """A brain that is not symmetric: it leans to the patient's right."""
    x, y, z = np.moveaxis(apply_affine(affine, np.stack(np.indices(shape), axis=-1)), -1, 0)
    return ((x - 14) / 52) ** 2 + (y / 74) ** 2 + (z / 46) ** 2 + 0.006 * np.clip(x, 0, None) * (y > 0) < 1


def write_patient(folder: Path, patient: str, rng: np.random.Generator, *, maps=tuple(MAPS), suffix=".nii.gz") -> None:
    """TOF and maps of one patient, in whose left side blood is late if the number is even."""
    inside = brain(TOF_SHAPE, TOF_AFFINE)
    tof = np.where(inside, 300 + rng.normal(0, 40, TOF_SHAPE), 8 + rng.normal(0, 2, TOF_SHAPE))
    write(layout.file_path(folder, patient, "tof"), tof, TOF_AFFINE, suffix)
    inside = brain(MAP_SHAPE, MAP_AFFINE)
    for name in maps:
        values = LEVELS[name] * (1 + rng.normal(0, 0.2, MAP_SHAPE))
        if name == "tmax" and int(patient[4:8]) % 2 == 0:
            values[: MAP_SHAPE[0] // 2] += 6
        write(layout.file_path(folder, patient, name), np.where(inside, np.abs(values), 0), MAP_AFFINE, suffix)


def write(path: Path, values: np.ndarray, affine: np.ndarray, suffix: str = ".nii.gz") -> None:
    """An image, compressed or not."""
    write_volume(path.with_name(nifti.stem(path) + suffix), values, affine)


def write_series(path: Path, rng: np.random.Generator, *, frames: int = 30) -> None:
    """A bolus that darkens the brain, early in the arteries of its middle."""
    inside = brain(MAP_SHAPE, MAP_AFFINE)
    time = np.arange(frames) * 1.5
    x = apply_affine(MAP_AFFINE, np.stack(np.indices(MAP_SHAPE), axis=-1))[..., 0]
    artery = inside & (np.abs(x - 14) < 13)
    delay, height = np.where(artery, 0.0, 2.0), np.where(artery, 1.0, 0.25)
    late = np.maximum(time - 12 - delay[..., None], 0)
    bolus = height[..., None] * (late / 4.5) ** 3 * np.exp(3 - late / 1.5)
    signal = np.where(inside[..., None], 600 * np.exp(-1.2 * bolus) + rng.normal(0, 4, (*MAP_SHAPE, frames)), 10)
    write_volume(path, signal, MAP_AFFINE, repetition_time_s=1.5)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, to show that nothing was touched."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}
