"""Own data, completed: what is given is used, what is absent is made elsewhere, nobody is in two splits."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers.own_data import MAP_AFFINE, MAP_SHAPE, brain, snapshot, write_patient, write_series

from tof2perf.cohorts import intake, layout, workspace
from tof2perf.maps import MAPS
from tof2perf.perfusion.dsc import TYPICAL_CBV
from tof2perf.profiles import CohortProfile, PerfusionProfile
from tof2perf.system.files import write_json, write_table
from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import CohortError, write_volume

ACUTE = CohortProfile(train=4, validation=1, test=1)


def take_in(folder, target, **changes):
    given = {"cohort": ACUTE, "seed": 3, "threshold_s": 6.0, "jobs": 1} | changes
    return intake.take_in(folder, target, **given)


@pytest.fixture
def folder(tmp_path, rng):
    """Six patients with TOF and maps, and nothing else."""
    folder = tmp_path / "clinic" / "acute"
    for number in range(1, 7):
        write_patient(folder, f"sub-{number:04d}", rng)
    return folder


def test_tof_and_maps_are_enough(folder, tmp_path):
    before = snapshot(folder)
    table = take_in(folder, tmp_path / "run")
    assert sorted(table.split) == ["test", "train", "train", "train", "train", "validation"]
    assert set(table.split_source) == {"made"}
    for patient in table.index:
        assert layout.file_path(tmp_path / "run", patient, "tof").readlink() == layout.file_path(folder, patient, "tof")
        assert nifti.read_volume(layout.file_path(tmp_path / "run", patient, "dscref")).shape == MAP_SHAPE
    assert snapshot(folder) == before


def test_exported_simulated_patients_stay_marked_as_simulated(folder, tmp_path):
    write_json(folder / "dataset_description.json", {"Name": "x", "GeneratedBy": [{"Name": "tof2perf.phantom"}]})
    take_in(folder, tmp_path / "run")
    assert workspace.source(tmp_path / "run") == "simulated cohort"


def test_a_mask_that_is_taken_away_is_used_no_longer(folder, tmp_path):
    mask = layout.file_path(folder, "sub-0001", "brain")
    write_volume(mask, brain(MAP_SHAPE, MAP_AFFINE), MAP_AFFINE)
    take_in(folder, tmp_path / "run")
    assert layout.find_files(tmp_path / "run", "sub-0001", ACUTE)["brain"].readlink() == mask
    mask.unlink()
    take_in(folder, tmp_path / "run")
    assert "brain" not in layout.find_files(tmp_path / "run", "sub-0001", ACUTE)


def test_running_twice_changes_nothing(folder, tmp_path):
    take_in(folder, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    take_in(folder, tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_a_patient_who_is_taken_away_or_dropped_leaves_no_trace(folder, tmp_path):
    take_in(folder, tmp_path / "run")
    table = take_in(folder, tmp_path / "run", dropped={"sub-0002": "bad"})
    assert "sub-0002" not in table.index
    assert not list((tmp_path / "run").rglob("sub-0002*"))


def test_given_splits_are_kept(folder, tmp_path):
    splits = ["test", "train", "validation", "train", "train", "test"]
    rows = pd.DataFrame({"participant_id": [f"sub-{n:04d}" for n in range(1, 7)], "split": splits})
    write_table(folder / "participants.tsv", rows)
    table = take_in(folder, tmp_path / "run")
    assert table.split.tolist() == splits and set(table.split_source) == {"given"}


def test_sessions_of_one_patient_are_samples_of_one_split(folder, tmp_path, rng):
    for number, session in ((7, 1), (7, 2), (7, 3), (8, 1), (8, 2)):
        write_patient(folder, f"sub-{number:04d}_ses-{session:02d}", rng)
    assert layout.file_path(folder, "sub-0007_ses-02", "tof").relative_to(folder).parts[:2] == ("sub-0007", "ses-02")
    table = take_in(folder, tmp_path / "run")
    people = table.split.groupby(table.index.map(layout.subject))
    assert len(table) == 11 and (people.nunique() == 1).all()
    assert people.size()["sub-0007"] == 3


def test_a_patient_in_two_splits_is_an_error(folder, tmp_path, rng):
    for session in ("01", "02"):
        write_patient(folder, f"sub-0007_ses-{session}", rng)
    rows = [(f"sub-{n:04d}", "train") for n in range(1, 7)]
    rows += [("sub-0007_ses-01", "train"), ("sub-0007_ses-02", "test")]
    write_table(folder / "participants.tsv", pd.DataFrame(rows, columns=["participant_id", "split"]))
    with pytest.raises(CohortError, match="sub-0007 is in two splits"):
        take_in(folder, tmp_path / "run")


def test_a_series_without_maps_becomes_maps_in_the_runs_own_folder(folder, tmp_path, rng):
    for name in MAPS:
        layout.file_path(folder, "sub-0001", name).unlink()
    write_series(layout.file_path(folder, "sub-0001", "dsc"), rng)
    write_json(folder / "dsc.json", {"RepetitionTime": 1.5, "EchoTime": 0.03})  # for the whole folder, as in BIDS
    before = snapshot(folder)
    fast = dataclasses.replace(ACUTE, perfusion=PerfusionProfile("bcsvd", "automatic", False))
    take_in(folder, tmp_path / "run", cohort=fast)
    assert snapshot(folder) == before
    inside = brain(MAP_SHAPE, MAP_AFFINE)
    for name in MAPS:
        image = nifti.read_volume(layout.file_path(tmp_path / "run", "sub-0001", name))
        assert np.array_equal(image.affine, MAP_AFFINE) and np.asarray(image.dataobj)[inside].mean() > 0
    tmax = nifti.read_volume(layout.file_path(tmp_path / "run", "sub-0001", "tmax")).get_fdata()
    assert np.median(tmax[inside]) == pytest.approx(2.0, abs=1.5)  # the delay that was put in
    reference = nifti.read_volume(layout.file_path(tmp_path / "run", "sub-0001", "dscref")).get_fdata()
    assert reference[inside].mean() == pytest.approx(600, rel=0.02)  # before the bolus
    cbv = nifti.read_volume(layout.file_path(tmp_path / "run", "sub-0001", "cbv"))
    assert np.median(cbv.get_fdata()[cbv.get_fdata() > 0]) == pytest.approx(TYPICAL_CBV, rel=0.01)
    sidecar = json.loads(layout.sidecar_path(layout.file_path(tmp_path / "run", "sub-0001", "cbf")).read_text())
    assert sidecar["Units"] == "ml/100 g/min" and "CBF and CBV are relative" in sidecar["Scale"]
    made = snapshot(tmp_path / "run")
    take_in(folder, tmp_path / "run", cohort=fast)
    assert snapshot(tmp_path / "run") == made
    write_json(folder / "dsc.json", {"RepetitionTime": 1.5, "EchoTime": 0.03, "ArterialCalibration": 0.2})
    take_in(folder, tmp_path / "run", cohort=fast)
    absolute = nifti.read_volume(layout.file_path(tmp_path / "run", "sub-0001", "cbv")).get_fdata()
    factor = np.median(absolute[inside]) / np.median(cbv.get_fdata()[inside])
    assert factor == pytest.approx(0.2 / float(sidecar["Scale"].split("of ")[-1].split()[0]), rel=0.01)


def test_maps_made_of_a_series_pass_the_check_of_units(folder, tmp_path, rng):
    for name in MAPS:
        layout.file_path(folder, "sub-0001", name).unlink()
    write_series(layout.file_path(folder, "sub-0001", "dsc"), rng)
    write_json(folder / "dsc.json", {"RepetitionTime": 1.5, "EchoTime": 0.03, "ArterialCalibration": 10})
    with pytest.raises(CohortError, match=r"the cbf map made of it has values up to .* ml/100 g/min"):
        take_in(folder, tmp_path / "run")


def test_a_series_without_echo_time_says_where_to_write_it(folder, tmp_path, rng):
    for name in MAPS:
        layout.file_path(folder, "sub-0001", name).unlink()
    write_series(layout.file_path(folder, "sub-0001", "dsc"), rng)
    with pytest.raises(CohortError, match=r"EchoTime is given nowhere; .* into sub-0001_dsc.json"):
        take_in(folder, tmp_path / "run")


def test_a_map_that_arrives_later_takes_the_place_of_a_made_one(folder, tmp_path):
    take_in(folder, tmp_path / "run")
    made = layout.file_path(tmp_path / "run", "sub-0001", "dscref")
    assert not made.is_symlink()
    given = layout.file_path(folder, "sub-0001", "dscref")
    write_volume(given, brain(MAP_SHAPE, MAP_AFFINE) * 5.0, MAP_AFFINE)
    take_in(folder, tmp_path / "run")
    assert made.readlink() == given


def test_uncompressed_files_are_read(tmp_path, rng):
    folder = tmp_path / "clinic" / "acute"
    for number in range(1, 4):
        write_patient(folder, f"sub-{number:04d}", rng, suffix=".nii")
    table = take_in(folder, tmp_path / "run")
    path = layout.file_path(tmp_path / "run", table.index[0], "tof")
    assert path.suffix == ".nii" and nib.load(path).shape == nib.load(path.resolve()).shape


@pytest.mark.parametrize(("name", "message"), [("tmax", "has no tmax map"), ("tof", "has no TOF")])
def test_what_is_missing_is_named_before_anything_is_made(folder, tmp_path, name, message):
    path = layout.file_path(folder, "sub-0003", "tof") if name == "tof" else layout.file_path(folder, "sub-0003", name)
    path.unlink()
    with pytest.raises(CohortError, match=f"{path}: sub-0003 {message}"):
        take_in(folder, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.nii.gz"))
