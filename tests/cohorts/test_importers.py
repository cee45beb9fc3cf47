"""Foreign layouts become cohorts by links; what cannot be explained is said."""

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.own_data import MAP_AFFINE, MAP_SHAPE, snapshot, write_patient

from tof2perf.__main__ import main
from tof2perf.cohorts import check, importers, layout, workspace
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile
from tof2perf.system.files import write_json, write_text
from tof2perf.volumes.nifti import CohortError, write_volume

ISLES = CohortProfile(
    train=1,
    validation=1,
    test=1,
    input="cta",
    intensity=(0.0, 300.0),
    registration="none",
    maps=("tmax", "cbf", "cbv", "mtt"),
)


def volume(path, rng, scale=1.0):
    write_volume(path, scale * np.abs(rng.normal(5, 1, MAP_SHAPE)), MAP_AFFINE)


def paper_folder(folder, rng, ids=("017", "p_018", "019")):
    """One cohort in the paper's own naming."""
    for name in ids:
        for role in ("TOF", *(entry.upper() for entry in MAPS)):
            volume(folder / f"{name}_{role}.nii.gz", rng)
    return folder


def isles_folder(folder, rng, *, raw="raw_data", session="ses-01", space="space-ncct_", gz=".nii.gz"):
    """ISLES'24 as published, images of one size."""
    for number in (1, 2, 5):
        who = f"sub-stroke{number:04d}"
        later = session[:-1] + "2"
        acquired = folder / "train" / raw / who / session
        derived = folder / "train" / "derivatives" / who
        for name in ("ncct", "cta", "ctp"):
            volume(acquired / f"{who}_{session}_{name}{gz}", rng)
        for name in ("cta", "ctp", "lvo-msk", "cow-msk"):
            volume(derived / session / f"{who}_{session}_{space}{name}{gz}", rng)
        for name in ("tmax", "cbf", "cbv", "mtt"):
            scale = 9 if name == "cbf" else 1
            volume(derived / session / "perfusion-maps" / f"{who}_{session}_{space}{name}{gz}", rng, scale)
        for name in ("dwi", "adc", "lesion-msk"):
            volume(derived / later / f"{who}_{later}_{space}{name}{gz}", rng)
    return folder


def test_the_papers_naming_becomes_cohorts_of_links(tmp_path, rng):
    source = tmp_path / "images"
    for name in ("acute", "pegasus"):
        paper_folder(source / name, rng)
    before = snapshot(source)
    importers.import_paper_naming(source, tmp_path / "data")
    for name in ("acute", "pegasus"):
        folder = tmp_path / "data" / name
        assert layout.list_patients(folder) == ["sub-017", "sub-019", "sub-p018"]
        assert layout.file_path(folder, "sub-p018", "tof").readlink() == source / name / "p_018_TOF.nii.gz"
        assert layout.file_path(folder, "sub-017", "ttp").readlink() == source / name / "017_TTP.nii.gz"
        table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str)
        assert dict(zip(table.participant_id, table.source_id, strict=True))["sub-p018"] == "p_018"
    assert snapshot(source) == before


def test_an_interrupted_import_goes_on_and_keeps_splits_that_were_added(tmp_path, rng):
    source = paper_folder(tmp_path / "acute", rng, ids=("1", "2"))
    importers.import_paper_naming(source, tmp_path / "data")
    folder = tmp_path / "data" / "acute"
    write_text(folder / "participants.tsv", "participant_id\tsource_id\tsplit\nsub-1\t1\ttrain\nsub-2\t2\ttest\n")
    layout.file_path(folder, "sub-1", "cbf").unlink()
    paper_folder(source, rng, ids=("3",))
    importers.import_paper_naming(source, tmp_path / "data")
    assert layout.file_path(folder, "sub-1", "cbf").is_file()
    table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert table.participant_id.tolist() == ["sub-1", "sub-2", "sub-3"] and table.split.tolist() == [
        "train",
        "test",
        "",
    ]


def test_what_the_naming_does_not_explain_is_said(tmp_path, rng):
    source = paper_folder(tmp_path / "acute", rng)
    volume(source / "017_T1.nii.gz", rng)
    (source / "019_TOF.nii.gz").unlink()
    remarks = importers.import_paper_naming(source, tmp_path / "data")["acute"]
    assert any(line.startswith("017_T1.nii.gz: no part") for line in remarks)
    assert "sub-019: no TOF or CTA where the maps are" in remarks


def test_two_names_that_become_one_patient_are_an_error(tmp_path, rng):
    source = paper_folder(tmp_path / "acute", rng, ids=("p_1", "p1"))
    with pytest.raises(CohortError, match="both become sub-p1; rename one"):
        importers.import_paper_naming(source, tmp_path / "data")


def test_an_export_comes_back_as_it_was_and_still_says_that_it_is_simulated(tmp_path, rng):
    folder = tmp_path / "phantom" / "acute"
    for patient in ("sub-0001", "sub-0002"):
        write_patient(folder, patient, rng)
    write_json(folder / "dataset_description.json", {"Name": "x", "GeneratedBy": [{"Name": "tof2perf.phantom"}]})
    assert main(["import", "export", str(folder), str(tmp_path / "paper" / "acute")]) == 0
    assert (tmp_path / "paper" / "acute" / "0001_TMAX.nii.gz").is_file()
    assert main(["import", "paper-naming", str(tmp_path / "paper"), str(tmp_path / "data")]) == 0
    for patient in ("sub-0001", "sub-0002"):
        for role in ("tof", "mtt"):
            again = layout.file_path(tmp_path / "data" / "acute", patient, role)
            assert again.samefile(layout.file_path(folder, patient, role))
    assert workspace.Workspace("laptop", ".", str(tmp_path / "data")).label() == "simulated cohort, profile laptop"


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"raw": "rawdata", "session": "ses-0001"},
        {"space": ""},
        {"gz": ".nii"},
    ],
    ids=["as published", "older mirror", "without space", "unpacked"],
)
def test_isles24_and_its_mirrors_become_one_cohort(tmp_path, rng, form):
    if form.get("gz") == ".nii":
        source = isles_folder(tmp_path / "isles", rng)
        import gzip

        for path in source.rglob("*.nii.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    else:
        source = isles_folder(tmp_path / "isles", rng, **form)
    before = snapshot(source)
    importers.import_isles24(source, tmp_path / "data")
    folder = tmp_path / "data" / "isles24"
    assert layout.list_patients(folder) == ["sub-stroke0001", "sub-stroke0002", "sub-stroke0005"]
    for patient in layout.list_patients(folder):
        found = layout.find_files(folder, patient, ISLES)
        assert "derivatives" in found["tof"].readlink().parts  # the CTA that lies where the maps do
        assert set(found) == {"tof", *ISLES.maps}
    problems = check.check_cohort(folder, "isles24", ISLES, jobs=1)
    assert not [entry for entry in problems if entry.fatal]
    assert snapshot(source) == before


def test_a_flat_mirror_is_read_by_its_names(tmp_path, rng):
    source = isles_folder(tmp_path / "isles", rng)
    (tmp_path / "flat").mkdir()
    for path in (source / "train" / "derivatives").rglob("*.nii.gz"):
        shutil.move(path, tmp_path / "flat" / path.name)
    importers.import_isles24(tmp_path / "flat", tmp_path / "data")
    assert len(layout.list_patients(tmp_path / "data" / "isles24")) == 3


def test_a_raw_cta_is_not_taken_for_one_in_the_space_of_the_maps(tmp_path, rng):
    source = isles_folder(tmp_path / "isles", rng)
    next((source / "train" / "derivatives" / "sub-stroke0002").rglob("*_cta.nii.gz")).unlink()
    remarks = importers.import_isles24(source, tmp_path / "data")["isles24"]
    assert remarks == ["sub-stroke0002: no TOF or CTA where the maps are"]


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    for kind in ("paper-naming", "isles24"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["import", kind, str(tmp_path / "empty"), str(tmp_path / "data")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path}/empty: no ")


def test_a_link_that_leads_nowhere_is_named_and_not_left_out(tmp_path, rng):
    source = paper_folder(tmp_path / "acute", rng)
    (source / "019_TOF.nii.gz").unlink()
    (source / "019_TOF.nii.gz").symlink_to("/annex/objects/x.nii.gz")
    with pytest.raises(CohortError, match=r"019_TOF.nii.gz: a broken link to /annex/objects/x.nii.gz; fetch"):
        importers.import_paper_naming(source, tmp_path / "data")


def test_a_table_with_semicolons_is_refused_rather_than_its_splits_lost(tmp_path, rng):
    source = paper_folder(tmp_path / "acute", rng)
    write_text(source / "participants.tsv", "participant_id;split\n017;train\n")
    with pytest.raises(CohortError, match=r"values are separated by ';'; separate the values by tabulators"):
        importers.import_paper_naming(source, tmp_path / "data")
