"""Preprocessing: geometry that can be known in advance, bad input, and the real tools on a small made-up head."""

import dataclasses
import json
import os
import stat

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from helpers.made_up_head import COHORT, MOTION, SETTINGS, grid, images, scan, write
from nibabel.affines import apply_affine, from_matvec
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tof2perf.cohorts import layout
from tof2perf.maps import MAPS, TOF_BOUNDS
from tof2perf.preprocessing import preprocess, skullstrip
from tof2perf.preprocessing.training_range import RECORD
from tof2perf.system.files import write_table
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import write_volume


@pytest.fixture
def source(tmp_path, rng):
    """A cohort of two patients with given brain masks."""
    folder = tmp_path / "cohort"
    for patient in ("sub-0001", "sub-0002"):
        write(folder, patient, images(rng))
    frame = pd.DataFrame({"participant_id": ["sub-0001", "sub-0002"], "split": ["train", "test"]})
    write_table(folder / "participants.tsv", frame)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


# --- geometry --------------------------------------------------------------------------------------------------------


def test_known_head_motion_is_recovered(rng):
    parts = images(rng)
    brain = np.asarray(parts["brain"].dataobj) > 0
    found, information = space.register(parts["tof"], brain, parts["dscref"], mm=5.0)
    points = apply_affine(parts["tof"].affine, np.argwhere(brain))
    moved = np.linalg.norm(apply_affine(MOTION, points) - points, axis=1).mean()
    error = np.linalg.norm(apply_affine(found, points) - apply_affine(MOTION, points), axis=1).mean()
    assert moved > 4
    assert error < 0.5
    assert information > 0


def test_motion_does_not_depend_on_how_the_volumes_are_stored(rng):
    parts = images(rng)
    brain = np.asarray(parts["brain"].dataobj) > 0
    upright, _ = space.register(parts["tof"], brain, parts["dscref"], mm=5.0)
    turned = parts["dscref"].as_reoriented([[1, -1], [2, 1], [0, -1]])
    again, _ = space.register(parts["tof"], brain, turned, mm=5.0)
    np.testing.assert_allclose(again, upright, atol=0.02)


def test_resampling_onto_the_own_grid_returns_the_input(rng):
    image = nib.Nifti1Image(rng.random((5, 6, 7), np.float32), from_matvec(np.diag([-2.0, 3.0, 4.0]), [5.0, -7, 1]))
    np.testing.assert_allclose(space.resample(image, image), image.dataobj, rtol=1e-5)


def test_resampling_follows_the_motion_from_grid_to_image():
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 6, 6))
    image = nib.Nifti1Image(np.ascontiguousarray(ramp), np.diag([2.0, 2, 2, 1]))
    moved = space.resample(image, image, from_matvec(np.eye(3), [3.0, 0, 0]))
    np.testing.assert_allclose(moved[:10], ramp[:10] + 1.5, atol=1e-4)


def test_zeros_around_the_brain_do_not_bleed_into_its_rim():
    support = np.zeros((12, 12, 12), bool)
    support[3:9, 3:9, 3:9] = True
    image = nib.Nifti1Image(np.where(support, np.float32(7), 0), np.eye(4))
    fine = nib.Nifti1Image(np.zeros((30, 30, 30), np.float32), np.diag([0.4, 0.4, 0.4, 1]))
    plain = space.resample(image, fine)
    found, inside = space.resample_masked({"cbv": image}, support, fine)
    assert plain[inside].min() < 4  # what would happen without the mask
    np.testing.assert_allclose(found["cbv"][inside], 7, rtol=1e-5)
    assert not found["cbv"][~inside].any()


def test_the_mean_of_a_volume_survives_shrinking(rng):
    values = rng.random((20, 27, 9), np.float32)
    for shape in ((10, 9, 3), (7, 26, 2), (1, 1, 1)):
        assert space.resize(values, shape).mean() == pytest.approx(values.mean(), rel=1e-4)


def test_a_vessel_thinner_than_a_voxel_is_not_lost():
    values = np.zeros((16, 16, 16), np.float32)
    values[5, 9, :] = 8.0
    np.testing.assert_allclose(space.resize(values, (4, 4, 4)).max(axis=(0, 1)), 8.0 / 16, rtol=1e-5)


@pytest.mark.parametrize("size", [5, 10, 23])
def test_a_resized_ramp_still_reads_its_own_world_position(size):
    image = nib.Nifti1Image(np.arange(10, dtype=np.float32)[:, None, None] * 3 + 2, np.diag([3.0, 1, 1, 1]))
    shape = (size, 1, 1)
    position = apply_affine(space.resized_affine(image, shape), np.stack(np.indices(shape), -1))[..., 0]
    inner = slice(2, -2)  # interpolation ends half an old voxel before the edge
    np.testing.assert_allclose(space.resize(image.dataobj, shape)[inner], position[inner] + 2, atol=1e-3)


def test_a_smooth_bias_is_divided_out(rng):
    shape = (44, 54, 30)
    affine = grid(shape, (3.5, 3.5, 3.5))
    _, brain, _ = scan(affine, shape)
    x = np.linspace(-1, 1, shape[0])[:, None, None]
    field = np.broadcast_to(0.3 * x - 0.2 * x**2, shape)
    tof = 400 + rng.normal(0, 8, shape)
    corrected = preprocess.correct_bias(nib.Nifti1Image((tof * np.exp(field)).astype("f4"), affine), brain, mm=8.0)
    left = np.log(np.asarray(corrected.dataobj) / tof)[brain]
    assert left.std() < 0.2 * field[brain].std()


# --- one patient, from files to files --------------------------------------------------------------------------------


def test_maps_land_where_the_tof_shows_the_same_tissue(source, tmp_path):
    quality = preprocess.preprocess_patient(source, "sub-0001", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    mask = nifti.read_volume(layout.preprocessed_path(tmp_path / "out", "sub-0001", "mask"))
    inside = mask.get_fdata() > 0
    tissue, _, _ = scan(mask.affine, mask.shape)
    for k, name in enumerate(MAPS, start=1):
        image = nifti.read_volume(layout.preprocessed_path(tmp_path / "out", "sub-0001", name))
        np.testing.assert_allclose(image.affine, mask.affine)
        values = image.get_fdata()
        assert not values[~inside].any()
        assert np.abs(values / k - (1 + tissue))[inside].mean() < 0.1  # tissue is 0.25 away from its mean
    tof = nifti.read_volume(layout.preprocessed_path(tmp_path / "out", "sub-0001", "tof")).get_fdata()
    assert tof.shape == SETTINGS.shape
    assert np.median(tof[inside]) == pytest.approx(1, rel=1e-4)
    assert quality["skull_strip"] == "given"
    assert quality["rotation_deg"] == pytest.approx(
        np.degrees(Rotation.from_matrix(MOTION[:3, :3]).magnitude()), abs=0.5
    )
    assert quality["coverage"] > 0.9


@pytest.mark.parametrize("background", [0, -1, -1000])
def test_brain_without_maps_is_left_out_of_the_mask(source, tmp_path, rng, background):
    parts = images(rng)
    for name in MAPS:
        values = np.asarray(parts[name].dataobj)
        values[:, :, :13] = 0
        values[values == 0] = background
    write(source, "sub-0001", parts)
    quality = preprocess.preprocess_patient(source, "sub-0001", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    mask = nifti.read_volume(layout.preprocessed_path(tmp_path / "out", "sub-0001", "mask")).get_fdata()
    assert quality["coverage"] < 0.8
    assert not mask[:, :, :4].any()
    assert mask[:, :, 8:].any()
    for name in MAPS:
        assert nifti.read_volume(layout.preprocessed_path(tmp_path / "out", "sub-0001", name)).get_fdata().min() == 0


def test_a_mask_after_resampling_holds_what_is_above_one_half(source, tmp_path, rng):
    expected = preprocess.preprocess_patient(source, "sub-0001", tmp_path / "a", cohort=COHORT, settings=SETTINGS)
    brain = images(rng)["brain"]
    values = np.asarray(brain.dataobj)
    rim = ndimage.binary_dilation(values > 0, iterations=3) & (values == 0)
    write_volume(layout.file_path(source, "sub-0001", "brain"), np.where(rim, 0.4, 7e-15 + values), brain.affine)
    found = preprocess.preprocess_patient(source, "sub-0001", tmp_path / "b", cohort=COHORT, settings=SETTINGS)
    assert found["brain_ml"] == expected["brain_ml"]


# --- bad input -------------------------------------------------------------------------------------------------------


def broken(case, folder, patient, parts):
    """Break one file; return its path."""
    path = layout.file_path(folder, patient, {"far": "dscref", "mask": "brain"}.get(case, "cbf"))
    image = parts["cbf"]
    values = np.array(image.dataobj)
    if case == "missing":
        path.unlink()
    elif case == "nan":
        values[3, 3, 3] = np.nan
        write_volume(path, values, image.affine)
    elif case == "4d":
        write_volume(path, np.stack([values, values], axis=-1), image.affine)
    elif case == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif case == "other grid":
        write_volume(path, values, image.affine + np.diag([1.0, 0, 0, 0]))
    elif case == "far":
        image = parts["dscref"]
        write_volume(path, np.asarray(image.dataobj), from_matvec(image.affine[:3, :3], [5000.0, 0, 0]))
    elif case == "mask":
        image = parts["brain"]
        write_volume(path, np.asarray(image.dataobj), from_matvec(image.affine[:3, :3], [5000.0, 0, 0]))
        path = layout.file_path(folder, patient, "tof")  # there is no telling which of the two is wrong
    return path


@pytest.mark.parametrize("case", ["missing", "nan", "4d", "truncated", "other grid", "far", "mask"])
def test_a_bad_file_is_named_in_one_line_and_nothing_is_written(source, tmp_path, rng, case):
    path = broken(case, source, "sub-0002", images(rng))
    with pytest.raises(nifti.CohortError) as caught:
        preprocess.preprocess_patient(source, "sub-0002", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    message = str(caught.value)
    assert str(path) in message and "sub-0002" in message
    assert "\n" not in message and ";" in message  # what is wrong; what to do
    assert not (tmp_path / "out").exists()


def test_a_missing_map_is_found_before_any_work_starts(source, tmp_path):
    layout.file_path(source, "sub-0002", "ttp").unlink()
    with pytest.raises(nifti.CohortError, match="sub-0002"):
        preprocess.preprocess_cohort(source, tmp_path / "out", cohort=COHORT, settings=SETTINGS, jobs=1)
    assert not (tmp_path / "out").exists()


def test_maps_of_another_region_are_refused(source, tmp_path, rng):
    parts = images(rng)
    for name in MAPS:
        np.asarray(parts[name].dataobj)[:, :, :18] = 0
    write(source, "sub-0001", parts)
    with pytest.raises(nifti.CohortError, match=r"cover \d+% of the brain"):
        preprocess.preprocess_patient(source, "sub-0001", tmp_path / "out", cohort=COHORT, settings=SETTINGS)


def test_a_motion_that_no_head_makes_is_refused(source, tmp_path, monkeypatch):
    far = from_matvec(np.eye(3), [0, 0, 49.0])
    monkeypatch.setattr(space, "register", lambda *arguments, **options: (far, 0.13))
    with pytest.raises(nifti.CohortError, match="aligned with the TOF by 49 mm and 0 degrees, as no head moves"):
        preprocess.preprocess_patient(source, "sub-0001", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    assert not (tmp_path / "out").exists()


# --- the cohort ------------------------------------------------------------------------------------------------------


def test_one_worker_and_two_write_the_same_bytes(source, tmp_path):
    first, second = tmp_path / "one" / "run" / "acute", tmp_path / "two" / "run" / "acute"
    one = preprocess.preprocess_cohort(source, first, cohort=COHORT, settings=SETTINGS, jobs=1)
    two = preprocess.preprocess_cohort(source, second, cohort=COHORT, settings=SETTINGS, jobs=2)
    pd.testing.assert_frame_equal(one, two)
    assert contents(first) == contents(second)
    assert (first / "participants.tsv").read_bytes() == (source / "participants.tsv").read_bytes()
    assert list(pd.read_csv(first / "qc.csv").participant_id) == ["sub-0001", "sub-0002"]


def test_the_bias_field_does_not_depend_on_the_number_of_threads(rng):
    parts = images(rng)
    brain = np.asarray(parts["brain"].dataobj) > 0
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(np.asarray(preprocess.correct_bias(parts["tof"], brain, mm=4.0).dataobj))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert np.array_equal(*found)


def test_only_what_changed_or_is_incomplete_is_done_again(source, tmp_path, monkeypatch, rng):
    out = tmp_path / "out"
    first = preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    done = []
    real = space.register
    monkeypatch.setattr(space, "register", lambda *a, **k: done.append(1) or real(*a, **k))
    pd.testing.assert_frame_equal(
        preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1), first
    )
    assert len(done) == 0
    layout.preprocessed_path(out, "sub-0001", "cbv").unlink()
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert len(done) == 1
    write(source, "sub-0002", images(rng))
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert len(done) == 2
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=dataclasses.replace(SETTINGS, n4_mm=14.0), jobs=1)
    assert len(done) == 4


def test_other_code_with_the_same_numbers_makes_the_same_files(source, tmp_path, monkeypatch):
    """So that a comment in it retrains nothing: what depends on the code's text is hidden, and no result."""
    out, done = tmp_path / "out", []
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}
    monkeypatch.setattr(preprocess, "fingerprint", lambda *arguments: done.append(1) or "of other code")
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert len(done) == 2
    assert {path.read_text() for path in out.glob(".*_made-from")} == {"of other code"}
    assert {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")} == before


def test_what_the_training_tofs_were_like_is_kept_and_the_test_patients_do_not_enter(source, tmp_path, rng):
    parts = images(rng)
    tof = parts["tof"].slicer[:, :, 3:27]
    write(source, "sub-0002", parts | {"tof": tof})  # a test patient with a shorter field of view
    table = preprocess.preprocess_cohort(source, tmp_path / "run" / "acute", cohort=COHORT, settings=SETTINGS, jobs=1)
    record = json.loads((tmp_path / "run" / "acute" / RECORD).read_text())
    assert (record["run"], record["cohort"], record["patients"]) == ("run", "acute", 1)
    assert record["settings"] == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    ranges = record["ranges"]
    assert ranges["extent_z_mm"] == pytest.approx([105, 105])
    assert ranges["voxel_x_mm"] == [3.5, 3.5]
    assert ranges["brain_ml"] == [table.brain_ml["sub-0001"]] * 2
    assert ranges["intensity_p25"][0] < 1 < ranges["intensity_p75"][0] < ranges["intensity_p99"][0]


# --- skull stripping -------------------------------------------------------------------------------------------------


def install(folder, monkeypatch, script):
    """Put a stand-in for SynthStrip on the PATH."""
    tool = folder / "bin" / "mri_synthstrip"
    tool.parent.mkdir()
    tool.write_text(script)
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def test_synthstrip_is_used_where_it_is_installed(source, tmp_path, monkeypatch):
    given = layout.file_path(source, "sub-0001", "brain").rename(tmp_path / "brain.nii.gz")
    install(tmp_path, monkeypatch, f'#!/bin/sh\n[ "$1 $3" = "-i -m" ] && cp {given} "$4"\n')
    quality = preprocess.preprocess_patient(source, "sub-0001", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    other = preprocess.preprocess_patient(source, "sub-0002", tmp_path / "out", cohort=COHORT, settings=SETTINGS)
    assert quality["skull_strip"] == "synthstrip"
    assert other["skull_strip"] == "given"  # a mask that the user gives comes before any tool
    assert quality["brain_ml"] == other["brain_ml"]


def test_a_failing_synthstrip_says_so_in_one_line(rng, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "#!/bin/sh\necho first >&2; echo no licence >&2; exit 3\n")
    with pytest.raises(nifti.CohortError, match=r"^a\.nii: .*\(no licence\); .*deepbet") as caught:
        skullstrip.strip_skull(images(rng)["tof"], method="synthstrip", source="a.nii")
    assert "\n" not in str(caught.value)


def test_deepbet_finds_the_brain_in_a_slab_with_a_skull():
    template, brain = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    mask = brain.get_fdata() > 0
    distance = ndimage.distance_transform_edt(~mask, sampling=2.0)
    values = template.get_fdata() * mask + 0.9 * template.get_fdata().max() * ((distance > 8) & (distance < 14))
    slab = slice(20, 64)  # 88 mm
    tof = nib.Nifti1Image(values[:, :, slab].astype(np.float32), template.affine)
    found = skullstrip.strip_skull(tof, method="deepbet")
    truth = mask[:, :, slab]
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.92
    assert not found[(distance > 8)[:, :, slab]].any()


def test_a_volume_without_a_brain_is_refused(rng):
    noise = nib.Nifti1Image(rng.random((20, 20, 20), np.float32), np.eye(4))
    with pytest.raises(nifti.CohortError, match="found no brain"):
        skullstrip.strip_skull(noise, method="deepbet", source="a.nii")


# --- other inputs, masks that are given ------------------------------------------------------------------------------


def test_a_window_takes_the_place_of_bias_correction_and_registration(tmp_path, rng):
    folder, parts = tmp_path / "cohort", images(rng)
    known = {name: image for name, image in parts.items() if name not in ("ttp", "brain")}
    write(folder, "sub-0001", known)
    layout.file_path(folder, "sub-0001", "tof").rename(layout.file_path(folder, "sub-0001", "cta"))
    cohort = dataclasses.replace(
        COHORT, maps=("tmax", "cbf", "cbv", "mtt"), input="cta", intensity=(200.0, 600.0), registration="none"
    )
    settings = dataclasses.replace(SETTINGS, skull_strip="maps")
    out = tmp_path / "out"
    found = preprocess.preprocess_patient(folder, "sub-0001", out, cohort=cohort, settings=settings)
    assert found["rotation_deg"] == found["translation_mm"] == found["mutual_information"] == 0
    assert found["skull_strip"] == "maps"
    tof, mask = (
        nifti.read_volume(layout.preprocessed_path(out, "sub-0001", name)).get_fdata() for name in ("tof", "mask")
    )
    low, high = TOF_BOUNDS
    assert low <= tof[mask > 0].min() and tof[mask > 0].max() <= high and not tof[mask == 0].any()
    middle = np.median(tof[mask > 0])
    assert (middle - low) / (high - low) == pytest.approx((400 - 200) / (600 - 200), abs=0.1)
    assert not layout.preprocessed_path(out, "sub-0001", "ttp").exists()


def test_ct_is_never_given_to_a_tool_that_knows_magnetic_resonance(monkeypatch):
    monkeypatch.setattr(skullstrip.shutil, "which", lambda _: None)
    assert skullstrip.choose_method("auto", {}) == "deepbet"
    assert skullstrip.choose_method("auto", {}, magnetic=False) == "maps"
    assert skullstrip.choose_method("auto", {"brain": "mask"}, magnetic=False) == "given"


def test_a_given_lesion_moves_with_the_maps(tmp_path, source):
    lesion = layout.file_path(source, "sub-0001", "lesion")
    tmax = nifti.read_volume(layout.file_path(source, "sub-0001", "tmax"))
    values = np.asarray(tmax.dataobj)
    write_volume(lesion, values > 1.6, tmax.affine)
    out = tmp_path / "out"
    preprocess.preprocess_patient(source, "sub-0001", out, cohort=COHORT, settings=SETTINGS)
    image = nib.load(layout.preprocessed_path(out, "sub-0001", "lesion"))
    found = np.asarray(image.dataobj) > 0
    moved = nifti.read_volume(layout.preprocessed_path(out, "sub-0001", "tmax")).get_fdata()
    assert found.any() and moved[found].mean() > 1.55 > moved[(moved > 0) & ~found].mean()
    write_volume(lesion, np.zeros(values.shape, bool), tmax.affine)  # someone has looked and found none
    preprocess.preprocess_patient(source, "sub-0001", out, cohort=COHORT, settings=SETTINGS)
    assert not np.asarray(nib.load(layout.preprocessed_path(out, "sub-0001", "lesion")).dataobj).any()


def test_a_session_is_a_sample_of_its_own(tmp_path, rng):
    folder, out = tmp_path / "cohort", tmp_path / "out"
    write(folder, "sub-0001_ses-02", images(rng))
    assert layout.list_patients(folder) == ["sub-0001_ses-02"]
    preprocess.preprocess_patient(folder, "sub-0001_ses-02", out, cohort=COHORT, settings=SETTINGS)
    assert (out / "sub-0001_ses-02_tmax.nii.gz").is_file()
