"""Each fault that a folder of one's own can have is found, named, and met with a remedy; a healthy one gives none."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from helpers.own_data import MAP_AFFINE, MAP_SHAPE, TOF_AFFINE, TOF_SHAPE, brain, snapshot, write_patient, write_series

from tof2perf.cohorts import check, layout, map_values, workspace
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile
from tof2perf.system.files import write_json, write_table
from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import write_volume

COHORT = CohortProfile(train=2, validation=1, test=1)
PATIENT = "sub-0002"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic") / "acute"
    rng = np.random.default_rng(8)
    for number in range(1, 5):
        patient = f"sub-{number:04d}"
        write_patient(folder, patient, rng)
        inside = brain(TOF_SHAPE, TOF_AFFINE)
        write_volume(layout.file_path(folder, patient, "brain"), inside, TOF_AFFINE)
        lesion = brain(MAP_SHAPE, MAP_AFFINE) & (np.indices(MAP_SHAPE)[0] < 8)
        write_volume(layout.file_path(folder, patient, "lesion"), lesion, MAP_AFFINE)
    splits = ["train", "train", "validation", "test"]
    rows = pd.DataFrame({"participant_id": [f"sub-{n:04d}" for n in range(1, 5)], "split": splits})
    write_table(folder / "participants.tsv", rows)
    return folder


@pytest.fixture
def folder(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "clinic" / "acute")


def problems_of(folder, cohort=COHORT):
    return check.check_cohort(folder, "acute", cohort, jobs=1)


def tmax(folder):
    return layout.file_path(folder, PATIENT, "tmax")


def change(path, function):
    """Write an image again with other values; the affine stays."""
    image = nifti.read_volume(path)
    nib.save(nib.Nifti1Image(np.asarray(function(image.get_fdata()), np.float32), image.affine), path)


def place(path, affine, qform="the same"):
    """Give an image other affines: sform, and qform or none."""
    moved = nib.Nifti1Image(np.asarray(nifti.read_volume(path).dataobj), None)
    moved.set_sform(affine, code=1)
    moved.set_qform(affine if isinstance(qform, str) else qform, code=0 if qform is None else 1)
    nib.save(moved, path)


def shifted(affine, mm):
    moved = np.array(affine)
    moved[0, 3] += mm
    return moved


def mirrored(affine, shape):
    """The same positions, stored from the other side."""
    return affine @ np.array([[-1.0, 0, 0, shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def header(path, field, text):
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    image = nib.Nifti1Image(data, image.affine, image.header)
    image.header[field] = text
    nib.save(image, path)


def truncate(folder):
    path = layout.file_path(folder, PATIENT, "tof")
    path.write_bytes(path.read_bytes()[:3000])


def not_gzip(folder):
    layout.file_path(folder, PATIENT, "tof").write_bytes(b"an e-mail attachment")


def gone(folder):
    for place in [folder, *(folder / "derivatives").iterdir()]:
        shutil.rmtree(place / PATIENT)


def with_nan(values):
    values[3, 3, 3] = np.nan
    return values


def split_twice(folder):
    path = folder / "participants.tsv"
    path.write_text(path.read_text() + f"{PATIENT}\ttest\n")


def no_split(folder):
    path = folder / "participants.tsv"
    path.write_text(path.read_text().replace(f"{PATIENT}\ttrain", f"{PATIENT}\t"))


def store_flipped(folder):
    for path in [layout.file_path(folder, PATIENT, name) for name in MAPS]:
        values = nifti.read_volume(path).get_fdata()
        affine = mirrored(MAP_AFFINE, MAP_SHAPE)
        nib.save(nib.Nifti1Image(values[::-1].astype(np.float32), affine), path)


def copy_patient(folder):
    for path in (folder / "sub-0001" / "anat").iterdir():
        raw = gzip.decompress(path.read_bytes())  # other bytes on disk, the same voxels
        layout.file_path(folder, PATIENT, "tof").write_bytes(gzip.compress(raw, 9))


def move_maps(folder):
    for name in MAPS:
        place(layout.file_path(folder, PATIENT, name), shifted(MAP_AFFINE, 400))


def extend(folder):
    image = nib.load(tmax(folder))
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient: Doe"))
    nib.save(image, tmax(folder))


def only_series(folder, **timing):
    for name in MAPS:
        layout.file_path(folder, PATIENT, name).unlink()
    write_series(layout.file_path(folder, PATIENT, "dsc"), np.random.default_rng(0), frames=timing.pop("frames", 30))
    path = layout.file_path(folder, PATIENT, "dsc")
    write_json(path.with_name(f"{PATIENT}_dsc.json"), {"RepetitionTime": 1.5, "EchoTime": 0.03} | timing)


def series(change=lambda voxels: voxels, affine=MAP_AFFINE, **timing):
    """A series in place of the maps, with its voxels changed."""

    def spoil(folder):
        only_series(folder, **timing)
        path = layout.file_path(folder, PATIENT, "dsc")
        voxels = np.asarray(nifti.read_volume(path, ndim=4).dataobj)
        write_volume(path, change(voxels), affine, repetition_time_s=1.5)

    return spoil


def pointer(text):
    return lambda f: tmax(f).write_bytes(text)


def broken_link(folder):
    tmax(folder).unlink()
    tmax(folder).symlink_to("/annex/objects/x.nii.gz")


def as_kind(kind):
    """Store the voxels in another data type."""

    def store(folder):
        image = nifti.read_volume(tmax(folder))
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(kind), image.affine), tmax(folder))

    return store


def without_orientation(folder):
    image = nib.Nifti1Image(np.asarray(nifti.read_volume(tmax(folder)).dataobj), None)
    image.header.set_zooms((12, 12, 12))
    image.header["qform_code"] = image.header["sform_code"] = 0
    nib.save(image, tmax(folder))


def brain_of_a_giant(folder):
    for path in (layout.file_path(folder, PATIENT, "tof"), layout.file_path(folder, PATIENT, "brain")):
        place(path, np.diag([1.6, 1.6, 1.6, 1]) @ TOF_AFFINE)


FAULTS = {  # what is done; in which file and words it is found; whether the patient is lost
    "missing TOF": (lambda f: layout.file_path(f, PATIENT, "tof").unlink(), "angio", "no TOF", True),
    "missing map": (lambda f: layout.file_path(f, PATIENT, "cbv").unlink(), "cbv", "no cbv", True),
    "extra image": (
        lambda f: shutil.copy(tmax(f), tmax(f).with_name(f"{PATIENT}_ktrans.nii.gz")),
        "ktrans",
        "no name asks for",
        False,
    ),
    "truncated gzip": (truncate, "angio", "cannot be read", True),
    "no image at all": (not_gzip, "angio", "cannot be read", True),
    "one slice": (lambda f: change(tmax(f), lambda v: v[:, :, :1]), "tmax", "16x18x1 voxels", True),
    "4D map": (lambda f: change(tmax(f), lambda v: np.stack([v, v], -1)), "tmax", "4 dimensions", True),
    "NaN": (lambda f: change(tmax(f), with_nan), "tmax", "1 voxels are NaN", True),
    "infinite": (lambda f: change(tmax(f), lambda v: np.where(v > 9, np.inf, v)), "tmax", "infinite", True),
    "constant": (lambda f: change(tmax(f), np.zeros_like), "tmax", "all voxels are equal", True),
    "Tmax in ms": (lambda f: change(tmax(f), lambda v: v * 1000), "tmax", "looks like ms, not s", True),
    "CBF in ml/g/s": (
        lambda f: change(layout.file_path(f, PATIENT, "cbf"), lambda v: v / 6000), "cbf", "looks like ml/g/s", True
    ),
    "CBV in ml/g": (
        lambda f: change(layout.file_path(f, PATIENT, "cbv"), lambda v: v / 100),
        "cbv",
        "looks like ml/g",
        True,
    ),
    "singular affine": (
        lambda f: place(tmax(f), np.diag([0.0, 12, 12, 1]), qform=None), "tmax", "affine is singular", True
    ),
    "far away": (move_maps, "tmax", "far from the input", True),
    "other grid": (lambda f: place(tmax(f), shifted(MAP_AFFINE, 3)), "cbf", "not on the grid of the tmax map", True),
    "qform and sform": (
        lambda f: place(tmax(f), MAP_AFFINE, qform=shifted(MAP_AFFINE, 20)), "tmax", "disagree by 20 mm", True
    ),
    "qform mirrored": (
        lambda f: place(tmax(f), MAP_AFFINE, qform=mirrored(MAP_AFFINE, MAP_SHAPE)), "tmax", "left and right", True
    ),
    "flipped storage": (store_flipped, "tmax", "stored the other way round", False),
    "empty mask": (
        lambda f: change(layout.file_path(f, PATIENT, "brain"), np.zeros_like), "brain", "mask is empty", True
    ),
    "mask off the head": (
        lambda f: place(layout.file_path(f, PATIENT, "brain"), shifted(TOF_AFFINE, 80)), "brain", "off the head", True
    ),
    "lesion off the maps": (
        lambda f: place(layout.file_path(f, PATIENT, "lesion"), shifted(MAP_AFFINE, 90)), "manual", "off the maps", True
    ),
    "copied patient": (copy_patient, "", "the same image as sub-0001 has (tof)", True),
    "two splits": (split_twice, "participants", "is in two splits", True),
    "unknown split": (
        no_split, "participants", "has split ''", True
    ),
    "no folder": (gone, "participants", "listed, but has no folder", True),
    "not listed": (
        lambda f: (f / "participants.tsv").write_text(
            "".join(line for line in (f / "participants.tsv").read_text().splitlines(True) if PATIENT not in line)
        ),
        "participants", "not listed", False,
    ),
    "name in the header": (lambda f: header(tmax(f), "descrip", b"DOE^JANE"), "tmax", "descrip may identify", False),
    "date in the header": (lambda f: header(tmax(f), "descrip", b"scan 17.03.1951"), "tmax", "may identify", False),
    "name field": (lambda f: header(tmax(f), "db_name", b"JD"), "tmax", "db_name may identify", False),
    "extension": (extend, "tmax", "extension may identify", False),
    "broken link": (broken_link, "tmax", "a broken link to /annex/objects/x.nii.gz", True),
    "annex pointer": (pointer(b"/annex/objects/SHA256E-s9--1.nii.gz"), "tmax", "a git-annex pointer", True),
    "LFS pointer": (pointer(b"version https://git-lfs.github.com/spec/v1 oid"), "tmax", "a Git LFS pointer", True),
    "complex": (as_kind(np.complex64), "tmax", "complex values", True),
    "colours": (as_kind(np.dtype([(c, "u1") for c in "RGB"])), "tmax", "colours (RGB)", True),
    "metres": (
        lambda f: place(tmax(f), np.diag([1e-3, 1e-3, 1e-3, 1]) @ MAP_AFFINE), "tmax", "its affine is in metres", True
    ),
    "no orientation": (without_orientation, "tmax", "its orientation is unknown", True),
    "background of -1000": (
        lambda f: change(tmax(f), lambda v: np.where(v == 0, -1000, v)), "tmax", "are below 0: no data", False
    ),
    "brain of a giant": (brain_of_a_giant, "brain", "a brain of 2,806 ml", True),
    "few frames": (lambda f: only_series(f, frames=8), "dsc", "8 frames of 16 x 18 x 12 voxels: at least 20", True),
    "no echo time": (series(EchoTime=None), "dsc", "EchoTime is given nowhere", True),
    "time of a slice": (series(RepetitionTime=0.085), "dsc", "RepetitionTime is 0.085 in sub-0002_dsc.json, 1.5", True),
    "no time": (series(RepetitionTime=0), "dsc", "RepetitionTime is 0 in sub-0002_dsc.json, 1.5 in the header", True),
    "two times": (series(RepetitionTime=2.2), "dsc", "2.2 in sub-0002_dsc.json, 1.5 in the header: correct", True),
    "calibration of 0": (series(ArterialCalibration=0), "dsc", "ArterialCalibration is 0", True),
    "reversed in time": (series(lambda v: v[..., ::-1]), "dsc", "reversed in time", True),
    "two slices": (series(lambda v: v[:, :, 5:7]), "dsc", "at least 4 voxels a side", True),
    "time first": (series(lambda v: np.moveaxis(v, -1, 0)), "dsc", "time seems to be axis 1 of 4", True),
    "begins in the bolus": (series(lambda v: v[..., 8:]), "dsc", "no baseline", True),
    "series elsewhere": (series(affine=shifted(MAP_AFFINE, 300)), "dsc", "far from the input", True),
    "last volume cut off": (series(lambda v: v * (np.arange(30) < 29)), "dsc", "29 (constant, all 0)", False),
}  # fmt: skip


def test_a_healthy_cohort_has_no_problem_and_is_not_touched(folder):
    before = snapshot(folder)
    assert problems_of(folder) == []
    assert snapshot(folder) == before


def test_a_series_in_place_of_maps_is_no_problem(folder):
    only_series(folder)
    layout.file_path(folder, PATIENT, "lesion").unlink()
    (note,) = problems_of(folder)
    assert not note.fatal and "CBF and CBV made of series are relative" in note.problem
    assert workspace.source(folder).endswith(", CBF and CBV relative")
    write_json(folder / "dsc.json", {"ArterialCalibration": 0.1})
    assert problems_of(folder) == []
    assert "relative" not in workspace.source(folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(folder, fault):
    spoil, file, words, fatal = FAULTS[fault]
    spoil(folder)
    found = problems_of(folder)
    named = [entry for entry in found if entry.patient == PATIENT and words in entry.problem]
    assert named, found
    assert any(file in entry.file for entry in named)
    assert all(entry.remedy for entry in found)
    assert any(entry.fatal for entry in found) == fatal
    assert {entry.patient for entry in found} <= {PATIENT, "all"}


def test_sessions_of_one_patient_in_two_splits_are_found(folder):
    rng = np.random.default_rng(4)
    for session, split in (("01", "train"), ("02", "test")):
        write_patient(folder, f"sub-0005_ses-{session}", rng)
        path = folder / "participants.tsv"
        path.write_text(f"{path.read_text()}sub-0005_ses-{session}\t{split}\n")
    found = problems_of(folder)
    assert [entry.patient for entry in found] == ["sub-0005_ses-01", "sub-0005_ses-02"]
    assert all("sub-0005 is in two splits (test, train)" in entry.problem and entry.fatal for entry in found)


def test_a_scale_factor_that_all_patients_lack_is_a_fault_of_the_cohort_and_drops_nobody(folder, tmp_path):
    for patient in layout.list_patients(folder):
        change(layout.file_path(folder, patient, "tmax"), lambda values: values * 10)
    (problem,) = problems_of(folder)
    assert problem.patient == "all" and problem.fatal and "tmax of the middle patient goes up to" in problem.problem
    words = ["--data", str(folder.parent), "--profile", "smoke", "--root", str(tmp_path), "--drop"]
    assert check.main(words) == 1
    assert not workspace.Workspace("smoke", tmp_path, str(folder.parent)).dropped.exists()


def test_a_faint_background_of_a_mask_is_no_part_of_it(folder):
    for path in (layout.file_path(folder, PATIENT, "brain"), layout.file_path(folder, PATIENT, "lesion")):
        change(path, lambda values: np.where(values > 0, values, 7e-15))
    assert problems_of(folder) == []


def test_a_table_with_semicolons_is_named(folder):
    path = folder / "participants.tsv"
    path.write_text(path.read_text().replace("\t", ";"))
    (problem,) = problems_of(folder)
    assert problem.file == "participants.tsv" and "values are separated by ';'" in problem.problem


def test_an_angiogram_without_acquisition_is_taken_if_it_is_the_only_one(folder):
    path = layout.file_path(folder, PATIENT, "tof")
    plain = path.rename(path.with_name(f"{PATIENT}_angio.nii.gz"))
    assert layout.file_path(folder, PATIENT, "tof") == plain and problems_of(folder) == []
    shutil.copy(layout.file_path(folder, "sub-0001", "tof"), path.with_name(f"{PATIENT}_acq-pc_angio.nii.gz"))
    assert any("no TOF" in entry.problem for entry in problems_of(folder))


def test_the_text_of_a_header_is_not_repeated(folder):
    header(tmax(folder), "descrip", b"DOE^JANE")
    assert "DOE" not in check.format_table(problems_of(folder))


def test_a_cohort_of_two_is_too_small(folder):
    (folder / "participants.tsv").write_text("participant_id\nsub-0001\nsub-0002\n")
    assert [entry.problem for entry in problems_of(folder) if entry.fatal] == ["2 usable patients"]


def test_a_healthy_title_of_software_is_no_name(folder):
    header(tmax(folder), "descrip", b"FSL5.0 TE=3.9")
    assert problems_of(folder) == []


@pytest.mark.parametrize(("name", "factor"), [("tmax", 1e3), ("mtt", 1e3), ("ttp", 1e3), ("cbf", 1 / 6000)])
def test_the_remedy_for_a_wrong_unit_undoes_it(name, factor, rng):
    values = np.abs(rng.normal({"cbf": 45.0}.get(name, 5.0), 1.0, 500))
    path = Path("map.nii.gz")
    assert map_values.find_unit(name, values, path) == []
    (finding,) = map_values.find_unit(name, values * factor, path)
    assert map_values.find_unit(name, values * factor * float(finding.remedy.split()[-1]), path) == []


def test_the_command_reports_in_one_table_and_drops_on_request(folder, tmp_path, capsys):
    words = ["--data", str(folder.parent), "--profile", "smoke", "--root", str(tmp_path)]
    assert check.main(words) == 0
    truncate(folder)
    assert check.main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "acute/sub-0002" in line]
    assert [part.strip() for part in row.split("|")][2] == "sub-0002/anat/sub-0002_acq-tof_angio.nii.gz"
    assert "4 patients, 1 cannot be used" in lines[-1]
    assert check.main([*words, "--drop"]) == 0
    assert "left out: acute/sub-0002" in capsys.readouterr().out
    run = workspace.Workspace("smoke", tmp_path, str(folder.parent))
    assert list(workspace.read_dropped(run.dropped, "acute")) == ["sub-0002"]
    shutil.copy(layout.file_path(folder, "sub-0001", "tof"), layout.file_path(folder, PATIENT, "tof"))
    change(layout.file_path(folder, PATIENT, "tof"), lambda values: values + 1)
    assert check.main([*words, "--drop"]) == 0
    assert not run.dropped.exists()


def test_an_unknown_cohort_is_one_line(folder, capsys):
    folder.rename(folder.with_name("heidelberg"))
    assert check.main(["--data", str(folder.parent), "--profile", "smoke"]) == 1
    assert "knows no cohort 'heidelberg'" in capsys.readouterr().err
