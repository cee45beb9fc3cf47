"""A preprocessed cohort of a few small volumes, made in a second, to try a study on before it costs an hour."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tof2perf.cohorts.layout import preprocessed_path
from tof2perf.maps import MAPS
from tof2perf.system.files import write_json, write_text
from tof2perf.volumes.nifti import write_volume

SHAPE = (16, 16, 8)  # voxels
VOXEL_MM = (10.0, 10.0, 14.0)
SPLITS = {"train": 6, "validation": 2}


def write_example(folder: Path, *, seed: int, splits: Mapping[str, int] = SPLITS) -> Path:
    """Write heads that are balls, in half of which vessels are missing on one side and blood arrives late there.

    Every number is an assumption; what is learned from them says nothing about patients or the phantom.

    Args:
        folder: becomes the preprocessed cohort.
        seed: which heads.
        splits: how many heads a split.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    affine = np.diag([*VOXEL_MM, 1.0])
    axes = (np.linspace(-1, 1, length) for length in SHAPE)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    brain = x**2 + y**2 + z**2 < 0.9
    rows: list[str] = []
    for split, count in splits.items():
        for number in range(count):
            patient = f"sub-{len(rows) + 1:04d}"
            side = rng.choice([-1, 1]) if number % 2 == 0 else 0
            vessels = (np.abs(np.abs(x) - 0.4) < 0.15) & (np.abs(y) < 0.2) & ~(side * x > 0.2)
            late = (side * x > 0.2) & brain
            maps = {
                "tmax": 1.5 + 7.0 * late,
                "cbf": 50.0 - 25.0 * late,
                "cbv": 4.0 - 0.5 * late,
                "mtt": 5.0 + 3.0 * late,
                "ttp": 6.0 + 6.0 * late,
            }
            volumes = {"tof": 1.0 + vessels, **{name: maps[name] for name in MAPS}}
            for name, volume in volumes.items():
                noisy = volume * rng.normal(1.0, 0.03, SHAPE)
                write_volume(preprocessed_path(folder, patient, name), np.where(brain, noisy, 0), affine)
            write_volume(preprocessed_path(folder, patient, "mask"), brain, affine)
            rows.append(f"{patient}\t{split}")
    write_text(folder / "participants.tsv", "\n".join(["participant_id\tsplit", *rows]) + "\n")
    write_json(folder / "dataset_description.json", {"Name": "example", "BIDSVersion": "1.10.0"})
    return folder
