"""Training data: preprocessed (TOF, map) pairs as normalised tensors, shuffled and mirrored left to right."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tof2perf.cohorts.layout import preprocessed_path
from tof2perf.maps import TOF_BOUNDS, chosen_maps, get_map, normalise
from tof2perf.volumes.hemispheres import left_right_axis
from tof2perf.volumes.nifti import CohortError, read_volume


class PhysicalPair(NamedTuple):
    """One patient on the profile's grid, in physical units.

    Attributes:
        tof: (x, y, z) in units of the patient's own median brain intensity, 0 outside the brain.
        target: the map (x, y, z) in its unit, 0 outside the brain.
        mask: brain, bool (x, y, z).
        affine: voxel indices to mm, (4, 4).
    """

    tof: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def load_pair(folder: Path, patient: str, map_name: str) -> PhysicalPair:
    """Read one patient's preprocessed TOF, map and brain mask.

    Raises:
        CohortError: a file is missing or unreadable, or the three do not share one grid.
        ValueError: unknown map.
    """
    get_map(map_name)
    images = {name: read_volume(preprocessed_path(folder, patient, name)) for name in ("tof", map_name, "mask")}
    tof = images["tof"]
    for name, image in images.items():
        if image.shape != tof.shape or not np.allclose(image.affine, tof.affine, atol=1e-3):
            raise CohortError(
                f"{preprocessed_path(folder, patient, name)}: {image.shape} voxels or affine differ from the TOF's "
                f"{tof.shape}; preprocess the patient again"
            )
    # NIfTI files are stored x fastest; the networks want the last axis fastest.
    data = {name: np.ascontiguousarray(image.get_fdata(dtype=np.float32)) for name, image in images.items()}
    return PhysicalPair(data["tof"], data[map_name], data["mask"] > 0.5, tof.affine)


class PairDataset:
    """All pairs of some patients, read once and kept in memory as float32 tensors (maps, x, y, z) in [-1, 1].

    The scaling comes from the fixed ranges of :mod:`tof2perf.maps`, never from the data, so no split can leak its
    extremes into another. Indexing gives ``(tof, target)``; ``masks`` holds the brain masks, bool (1, x, y, z). The
    first axis, x, runs left to right.

    Args:
        folder: preprocessed cohort.
        patients: patients to read, in order.
        map_name: the target map; ``all`` stacks the five.

    Raises:
        CohortError: no patients, a file missing or unreadable, patients on grids of different shapes, or another axis
            than the first runs left to right.
    """

    def __init__(self, folder: Path, patients: Sequence[str], map_name: str) -> None:
        if not patients:
            raise CohortError(f"{folder}: no patients to load; assign some to the split in participants.tsv")
        maps = chosen_maps(map_name)
        self.folder = Path(folder)
        self.patients = list(patients)
        self.tofs: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.masks: list[Tensor] = []
        for patient in self.patients:
            pairs = [load_pair(self.folder, patient, entry.name) for entry in maps]
            pair = pairs[0]
            targets = [torch.from_numpy(one.target) for one in pairs]
            scaled = [normalise(target, entry.bounds) for target, entry in zip(targets, maps, strict=True)]
            self.tofs.append(normalise(torch.from_numpy(pair.tof), TOF_BOUNDS)[None])
            self.targets.append(torch.stack(scaled))
            self.masks.append(torch.from_numpy(pair.mask)[None])
            path = preprocessed_path(self.folder, patient, "tof")
            if axis := left_right_axis(pair.affine):
                raise CohortError(
                    f"{path}: axis {axis + 1} runs left to right, the networks need the first one to; preprocess the "
                    "patient again"
                )
            if self.tofs[-1].shape != self.tofs[0].shape:
                raise CohortError(
                    f"{path}: {pair.tof.shape} voxels, the first patient has {tuple(self.tofs[0].shape[1:])}; "
                    "preprocess the cohort on one grid"
                )

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tofs[index], self.targets[index]

    def mirrored(self, index: int) -> tuple[Tensor, Tensor]:
        """Exchange left and right in a pair."""
        return self.tofs[index].flip(1), self.targets[index].flip(1)

    def batches(
        self, generator: torch.Generator, *, flip: bool, size: int
    ) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Yield one epoch in batches; the last one is filled up with the first patients of the epoch.

        All random numbers are drawn before the first batch, so the generator's state between two epochs determines
        the epochs to come.

        Args:
            generator: source of order and mirroring.
            flip: mirror each pair with probability 1/2.
            size: patients in a batch.

        Yields:
            (names of the patients, TOFs (batch, 1, x, y, z), targets (batch, maps, x, y, z)).
        """
        order = torch.randperm(len(self), generator=generator).tolist()
        coins = (torch.rand(len(self), generator=generator) < 0.5).tolist()
        drawn = itertools.cycle(zip(order, coins, strict=True))
        for _ in range(0, len(self), size):
            batch = list(itertools.islice(drawn, size))
            pairs = [self.mirrored(index) if flip and coin else self[index] for index, coin in batch]
            tofs, targets = (torch.stack(volumes) for volumes in zip(*pairs, strict=True))
            yield [self.patients[index] for index, _ in batch], tofs, targets

    def fingerprint(self) -> str:
        """Compute a digest of all patients and voxels; a checkpoint belongs to the data with its digest."""
        digest = hashlib.sha256()
        for patient, *volumes in zip(self.patients, self.tofs, self.targets, self.masks, strict=True):
            digest.update(patient.encode())
            for volume in volumes:
                digest.update(volume.numpy().data)
        return digest.hexdigest()
