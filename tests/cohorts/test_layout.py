"""The cohort contract: what is read is checked, and every file has its place."""

import numpy as np
import pandas as pd
import pytest

from tof2perf.cohorts import layout, workspace
from tof2perf.cohorts.participants import patients_in
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile
from tof2perf.system.files import write_json, write_table
from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import write_volume


def write_participants(folder, **columns):
    write_table(folder / "participants.tsv", pd.DataFrame(columns))


def test_splits_are_read_in_order(tmp_path):
    write_participants(tmp_path, participant_id=["sub-2", "sub-1", "sub-3"], split=["train", "train", "test"])
    assert patients_in(tmp_path, "train") == ["sub-2", "sub-1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"participant_id": ["sub-1"]}, "no column 'split'"),
        ({"participant_id": ["sub-1", "sub-1"], "split": ["train", "test"]}, "more than once"),
        ({"participant_id": ["sub-1"], "split": ["holdout"]}, "split 'holdout'"),
        ({"participant_id": ["sub-1"], "split": ["train"]}, "split 'test' has no patients"),
    ],
)
def test_bad_participants_are_named(tmp_path, columns, message):
    write_participants(tmp_path, **columns)
    with pytest.raises(nifti.CohortError, match=message):
        patients_in(tmp_path, "test")


def test_own_data_never_share_a_results_folder_with_simulated_ones(tmp_path):
    simulated, own = (
        workspace.Workspace("laptop", tmp_path),
        workspace.Workspace("laptop", tmp_path, str(tmp_path / "clinic")),
    )
    assert simulated.results != own.results
    assert simulated.preprocessed("acute") != own.preprocessed("acute")


def test_the_label_says_simulated_only_for_the_phantom(tmp_path):
    for name, generator in (("phantom", "tof2perf.phantom"), ("clinic", "scanner export")):
        write_json(
            tmp_path / name / "acute" / "dataset_description.json",
            {"Name": name, "GeneratedBy": [{"Name": generator}]},
        )
    assert workspace.Workspace("laptop", ".", str(tmp_path / "phantom")).label() == "simulated cohort, profile laptop"
    assert workspace.Workspace("laptop", ".", str(tmp_path / "clinic")).label() == "own data clinic, profile laptop"


def test_a_missing_map_is_named(tmp_path):
    tof, maps = layout.find_missing(tmp_path, "sub-0001", CohortProfile(1, 1, 1))
    assert tof.problem == "sub-0001 has no TOF"
    assert maps.problem == "sub-0001 has no tmax, cbf, cbv, mtt, ttp map"
    assert str(maps.error()).startswith(f"{layout.file_path(tmp_path, 'sub-0001', 'tmax')}: sub-0001 has no tmax")
    *_, reference = layout.find_missing(tmp_path, "sub-0001", CohortProfile(1, 1, 1), completed=True)
    assert reference.problem == "sub-0001 has no reference volume"


def test_a_run_reads_its_generated_maps_and_the_clipped_maps_of_its_training_patients(tmp_path, rng):
    run = workspace.Workspace("smoke", tmp_path)
    values = rng.normal(10, 20, (4, 5, 6)).astype(np.float32)
    write_volume(run.prediction_path("acute", "sub-3", "tmax"), values, np.eye(4))
    assert np.array_equal(run.prediction("acute", "sub-3", "tmax"), values)
    folder = run.preprocessed("acute")
    write_participants(folder, participant_id=["sub-1", "sub-3"], split=["train", "test"])
    for name in ("tmax", "tof"):
        write_volume(layout.preprocessed_path(folder, "sub-1", name), values, np.eye(4))
    ((tmax,), (tof,)) = (list(run.training_volumes("acute", name)) for name in ("tmax", "tof"))
    assert np.array_equal(tmax, values.clip(*MAPS["tmax"].bounds)) and tmax.dtype == np.float32
    assert np.array_equal(tof, values)
