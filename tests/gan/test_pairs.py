"""Pairs as the networks see them: scaling, orientation, shuffling, and errors that name the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tof2perf.cohorts.layout import preprocessed_path
from tof2perf.gan.pairs import PairDataset, left_right_axis, load_pair
from tof2perf.maps import TOF_BOUNDS
from tof2perf.volumes.nifti import CohortError, write_volume

SHAPE = (6, 5, 4)
LPS = np.diag([-2.0, -2.0, 2.0, 1.0])
SAGITTAL = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # the third axis runs left to right


def _write(folder: Path, patient: str, rng: np.random.Generator, *, affine=LPS, shape=SHAPE, **volumes) -> None:
    content = {
        "tof": rng.uniform(*TOF_BOUNDS, shape),
        "tmax": rng.uniform(0, 25, shape),
        "mask": rng.uniform(size=shape) > 0.3,
    } | volumes
    for name, volume in content.items():
        write_volume(preprocessed_path(folder, patient, name), volume, affine)


@pytest.fixture
def cohort(tmp_path, rng):
    for patient in ("sub-0001", "sub-0002", "sub-0003"):
        _write(tmp_path, patient, rng)
    return tmp_path


def test_volumes_are_scaled_by_fixed_ranges_and_not_by_their_own_extremes(tmp_path, rng):
    tof, tmax = np.zeros(SHAPE), np.zeros(SHAPE)
    tof[0, 0, 0], tmax[0, 0, 0] = sum(TOF_BOUNDS) / 2, 10.0  # the middle of both ranges
    tof[1, 0, 0], tmax[1, 0, 0] = 9.0, 99.0  # beyond them: clipped
    _write(tmp_path, "sub-0001", rng, tof=tof, tmax=tmax)
    for volume in PairDataset(tmp_path, ["sub-0001"], "tmax")[0]:
        assert volume.shape == (1, *SHAPE)
        assert volume.dtype == torch.float32
        assert volume[0, 0, 0, 0] == pytest.approx(0.0, abs=1e-6)
        assert volume[0, 1, 0, 0] == 1.0
        assert volume[0, 2, 0, 0] == -1.0


def test_loaded_pair_is_what_was_written(tmp_path, rng):
    tof = rng.uniform(0, 6, SHAPE).astype(np.float32)
    _write(tmp_path, "sub-0001", rng, tof=tof)
    pair = load_pair(tmp_path, "sub-0001", "tmax")
    assert np.array_equal(pair.tof, tof)
    assert np.array_equal(pair.affine, LPS)
    assert pair.mask.dtype == bool


def test_left_and_right_are_exchanged_along_the_first_axis(cohort):
    pairs = PairDataset(cohort, ["sub-0001"], "tmax")
    for volume, mirrored in zip(pairs[0], pairs.mirrored(0), strict=True):
        assert torch.equal(mirrored, volume.flip(1))
        assert not torch.equal(mirrored, volume)


def test_volumes_that_run_left_to_right_along_another_axis_are_refused(tmp_path, rng):
    assert (left_right_axis(LPS), left_right_axis(SAGITTAL)) == (0, 2)
    _write(tmp_path, "sub-0001", rng, affine=SAGITTAL)
    with pytest.raises(CohortError, match=r"sub-0001_tof\.nii\.gz: axis 3 runs left to right"):
        PairDataset(tmp_path, ["sub-0001"], "tmax")


def test_oblique_affine_still_has_one_left_right_axis():
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ SAGITTAL[:3, :3]
    assert left_right_axis(affine) == 2


def epoch(pairs, generator, *, flip):
    """One epoch, pair by pair: patient, TOF and target."""
    return [(patient, tof[0], target[0]) for (patient,), tof, target in pairs.batches(generator, flip=flip, size=1)]


def test_an_epoch_shows_every_patient_once_in_an_order_that_the_generator_decides(cohort):
    pairs = PairDataset(cohort, ["sub-0001", "sub-0002", "sub-0003"], "tmax")

    def epochs(seed: int) -> list[list[tuple[str, float]]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            [(patient, tof[0, 0, 0, 0].item()) for patient, tof, _ in epoch(pairs, generator, flip=True)]
            for _ in range(8)
        ]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    assert all(sorted(patient for patient, _ in epoch) == pairs.patients for epoch in epochs(1))
    assert len({tuple(patient for patient, _ in epoch) for epoch in epochs(1)}) > 1
    assert len({corner for epoch in epochs(1) for _, corner in epoch}) == 6  # each of three patients both ways round


def test_without_flips_no_pair_is_mirrored_and_the_order_stays_the_same(cohort):
    pairs = PairDataset(cohort, ["sub-0001", "sub-0002", "sub-0003"], "tmax")
    flipped, plain = (
        [patient for patient, *_ in epoch(pairs, torch.Generator().manual_seed(3), flip=flip)] for flip in (True, False)
    )
    assert flipped == plain
    for patient, tof, target in epoch(pairs, torch.Generator().manual_seed(3), flip=False):
        index = pairs.patients.index(patient)
        assert torch.equal(tof, pairs[index][0])
        assert torch.equal(target, pairs[index][1])


def test_tof_and_map_are_mirrored_together(cohort):
    pairs = PairDataset(cohort, ["sub-0001", "sub-0002"], "tmax")
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for patient, *shown in epoch(pairs, generator, flip=True):
            index = pairs.patients.index(patient)
            mirrored = not torch.equal(shown[0], pairs[index][0])
            expected = pairs.mirrored(index) if mirrored else pairs[index]
            assert all(torch.equal(one, other) for one, other in zip(shown, expected, strict=True))


def test_fingerprint_changes_with_any_voxel_and_any_patient(cohort, rng):
    patients = ["sub-0001", "sub-0002"]
    before = PairDataset(cohort, patients, "tmax").fingerprint()
    assert before == PairDataset(cohort, patients, "tmax").fingerprint()
    assert before != PairDataset(cohort, patients[::-1], "tmax").fingerprint()
    tmax = load_pair(cohort, "sub-0002", "tmax").target
    tmax[0, 0, 0] = 0.5 * tmax[0, 0, 0] + 0.1
    write_volume(preprocessed_path(cohort, "sub-0002", "tmax"), tmax, LPS)
    assert before != PairDataset(cohort, patients, "tmax").fingerprint()


def test_missing_map_is_named(cohort):
    with pytest.raises(CohortError, match=r"sub-0001_cbf\.nii\.gz: missing"):
        PairDataset(cohort, ["sub-0001"], "cbf")


def test_unknown_map_is_named_with_the_known_ones(cohort):
    with pytest.raises(ValueError, match="unknown map 'adc': choose one of tmax"):
        PairDataset(cohort, ["sub-0001"], "adc")


def test_no_patients_is_an_error(cohort):
    with pytest.raises(CohortError, match="no patients to load"):
        PairDataset(cohort, [], "tmax")


def test_map_on_another_grid_than_the_tof_is_named(cohort, rng):
    write_volume(preprocessed_path(cohort, "sub-0002", "tmax"), rng.uniform(0, 9, (6, 5, 3)), LPS)
    with pytest.raises(CohortError, match=r"sub-0002_tmax\.nii\.gz: .*preprocess the patient again"):
        PairDataset(cohort, ["sub-0001", "sub-0002"], "tmax")
    write_volume(preprocessed_path(cohort, "sub-0002", "tmax"), rng.uniform(0, 9, SHAPE), 2 * LPS)
    with pytest.raises(CohortError, match=r"sub-0002_tmax\.nii\.gz: .*affine differ"):
        PairDataset(cohort, ["sub-0001", "sub-0002"], "tmax")


def test_patients_on_different_grids_are_refused(cohort, rng):
    _write(cohort, "sub-0004", rng, shape=(6, 5, 6))
    with pytest.raises(
        CohortError, match=r"sub-0004_tof\.nii\.gz: \(6, 5, 6\) voxels, the first patient has \(6, 5, 4\)"
    ):
        PairDataset(cohort, ["sub-0001", "sub-0004"], "tmax")
