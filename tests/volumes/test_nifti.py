"""One reader of images: what is read is checked, what is wrong is named with its remedy, what is written comes back."""

import nibabel as nib
import numpy as np
import pytest

from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import write_volume


def test_a_volume_survives_the_round_trip_with_its_affine(tmp_path, rng):
    array, affine = rng.normal(size=(4, 5, 6)).astype(np.float32), np.diag([2.0, -3.0, 4.0, 1.0])
    write_volume(tmp_path / "a.nii.gz", array, affine)
    image = nifti.read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), array) and np.array_equal(image.affine, affine)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 3, 3)), "all voxels are equal"),
        (np.full((3, 3, 3), np.nan), "NaN"),
        (np.random.default_rng(0).normal(size=(3, 3, 3, 2)), "4 dimensions"),
    ],
)
def test_a_bad_volume_is_named_with_its_remedy(tmp_path, array, message):
    path = tmp_path / "sub-0001_tmax.nii.gz"
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), path)
    with pytest.raises(nifti.CohortError, match=message) as caught:
        nifti.read_volume(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_singular_affine_is_an_error(tmp_path, rng):
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(rng.normal(size=(3, 3, 3)).astype(np.float32), None)
    image.header.set_sform(np.diag([0.0, 1.0, 1.0, 1.0]), code=1)
    nib.save(image, path)
    with pytest.raises(nifti.CohortError, match="singular"):
        nifti.read_volume(path)


def test_a_surface_is_no_volume_and_is_named(tmp_path):
    path = tmp_path / "sub-0001_surface.gii"
    nib.save(nib.gifti.GiftiImage(), path)
    with pytest.raises(nifti.CohortError, match=r"sub-0001_surface.gii: cannot be read \(no volume"):
        nifti.read_volume(path)


def test_a_truncated_file_is_an_error(tmp_path, rng):
    path = tmp_path / "a.nii.gz"
    write_volume(path, rng.normal(size=(20, 20, 20)), np.eye(4))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(nifti.CohortError, match="cannot be read"):
        nifti.read_volume(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(nifti.CohortError, match="missing"):
        nifti.read_volume(tmp_path / "none.nii.gz")


def test_the_first_fatal_finding_is_the_error_and_notes_are_none(tmp_path, rng):
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(rng.normal(size=(3, 4, 5)).astype(np.float32), np.eye(4))
    image.header["descrip"] = b"DOE^JANE"
    nib.save(image, path)
    read, (note,) = nifti.inspect(path)
    assert read.shape == (3, 4, 5) and not note.fatal and nifti.read_volume(path).shape == (3, 4, 5)
    image.header.set_sform(np.diag([1e-3, 1e-3, 1e-3, 1]), code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    with pytest.raises(nifti.CohortError, match="its affine is in metres; multiply the affine by 1000") as caught:
        nifti.read_volume(path)
    assert caught.value.finding == nifti.inspect(path)[1][-1]


def test_voxels_above_one_half_are_in_a_mask_whatever_its_label(tmp_path):
    values = np.array([7e-15, 0.0, 0.3, 0.5, 0.51, 1.0, 2.0, 255.0], np.float32).reshape(2, 2, 2)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "mask.nii.gz")
    mask = nifti.read_mask(tmp_path / "mask.nii.gz")
    assert np.asarray(mask.dataobj).ravel().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    write_volume(tmp_path / "none.nii.gz", np.zeros((2, 2, 2), bool), np.eye(4))
    assert not nifti.in_mask(nifti.read_mask(tmp_path / "none.nii.gz")).any()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.AnalyzeImage])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "sal"])
def test_an_unknown_orientation_is_an_error_until_it_is_stated(tmp_path, rng, kind, orientation):
    image = kind(rng.normal(size=(4, 5, 6)).astype(np.float32), None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    path = tmp_path / ("a.nii" if kind is nib.Nifti1Image else "a.img")
    nib.save(image, path)
    with pytest.raises(nifti.CohortError, match="its orientation is unknown"):
        nifti.read_volume(path)
    read = nifti.read_volume(path, orientation=orientation)
    assert "".join(nib.aff2axcodes(read.affine)) == orientation.upper()
    assert nib.affines.voxel_sizes(read.affine).tolist() == [1, 2, 3]
    assert np.allclose(nib.affines.apply_affine(read.affine, [1.5, 2, 2.5]), 0)  # the middle of the volume
    with pytest.raises(nifti.CohortError, match="unknown orientation 'RR'; give three letters"):
        nifti.read_volume(path, orientation="RR")


def test_the_content_of_a_data_set_that_was_not_fetched_is_named(tmp_path):
    path = tmp_path / "sub-1_tmax.nii.gz"
    path.symlink_to("../../.git/annex/objects/x.nii.gz")
    with pytest.raises(nifti.CohortError, match=r"a broken link to ../../.git/annex/objects/x.nii.gz; fetch the"):
        nifti.read_volume(path)
    path.unlink()
    path.write_bytes(b"/annex/objects/MD5E-s7--0.nii.gz\n")
    with pytest.raises(nifti.CohortError, match="a git-annex pointer, not the image"):
        nifti.read_volume(path)
