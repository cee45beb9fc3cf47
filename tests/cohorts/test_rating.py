"""A blinded rating: nothing tells the cases apart, and what comes back wrong is named."""

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from tof2perf.cohorts import rating

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 3, -6], [0, 0, 0, 1]])


def cases(rng, patients=3):
    brain = np.zeros((10, 12, 6), bool)
    brain[1:9, 1:11, 1:5] = True
    for patient in range(patients):
        for kind in ("real", "gan"):
            yield rating.Case(f"sub-{patient}", kind, rng.uniform(0, 12, brain.shape), brain, AFFINE)


@pytest.fixture
def exported(tmp_path, rng):
    """Folder for the rater, key, folder for what comes back, and the pseudonyms."""
    folder, key, returned = tmp_path / "maps", tmp_path / "sealed" / "key.json", tmp_path / "returned"
    returned.mkdir()
    names = rating.export_cases(
        folder, key, list(cases(rng)), threshold_s=6.0, returned=str(returned), rng=np.random.default_rng(1)
    )
    return folder, key, returned, names


def save(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(data, np.uint8), affine), path)


def rate(folder, returned, names):
    """Return every preliminary mask without its lower half."""
    for name in names:
        data = np.asarray(nib.load(folder / f"{name}_mask.nii.gz").dataobj).copy()
        data[:, :, :3] = 0
        save(returned / f"{name}_mask.nii.gz", data)


def test_what_the_rater_sees_names_no_patient_and_no_kind(exported):
    folder, key, _, names = exported
    seen = sorted(path.name for path in folder.iterdir())
    assert len(names) == 6 and len(seen) == 13 and key.parent != folder
    text = " ".join(seen) + (folder / "README.txt").read_text()
    assert "sub-" not in text and "gan" not in text and "real" not in text
    for path in folder.glob("*.nii.gz"):
        header = nib.load(path).header
        assert not bytes(header["descrip"]).strip(b"\0") and not bytes(header["db_name"]).strip(b"\0")


def test_the_order_of_the_cases_is_shuffled_and_the_key_knows_them_all(exported):
    _, key, _, names = exported
    listed = json.loads(key.read_text())["cases"]
    order = [(listed[name]["participant_id"], listed[name]["kind"]) for name in names]
    assert set(order) == {(f"sub-{p}", kind) for p in range(3) for kind in ("real", "gan")}
    assert order != sorted(order) and len(set(names)) == 6


def test_preliminary_masks_are_the_threshold_inside_the_brain(exported, rng):
    folder, _, _, names = exported
    for name in names:
        tmax, mask = (np.asarray(nib.load(folder / f"{name}_{what}.nii.gz").dataobj) for what in ("tmax", "mask"))
        assert np.array_equal(mask > 0, tmax > 6) and not tmax[0].any()


def test_a_changed_map_gets_another_pseudonym_and_the_same_export_the_same(tmp_path, rng):
    given = list(cases(rng))
    again = [rating.Case("sub-0", "real", given[0].tmax + 1, given[0].brain, AFFINE), *given[1:]]
    names = [
        rating.export_cases(
            tmp_path / str(k),
            tmp_path / f"key{k}" / "key.json",
            these,
            threshold_s=6.0,
            returned="r",
            rng=np.random.default_rng(1),
        )
        for k, these in enumerate((given, given, again))
    ]
    assert names[0] == names[1] and len(set(names[0]) & set(names[2])) == 5


def test_the_key_must_not_lie_among_the_maps(tmp_path, rng):
    with pytest.raises(rating.RatingError, match="folder of its own"):
        rating.export_cases(
            tmp_path, tmp_path / "sealed" / "key.json", cases(rng), threshold_s=6.0, returned="r", rng=rng
        )


def test_nobody_has_rated_yet(exported, tmp_path):
    _, key, returned, _ = exported
    assert rating.collect_masks(returned, key) == {}
    assert rating.collect_masks(tmp_path / "absent", key) == {}


def test_edited_masks_come_back_to_their_patients(exported):
    folder, key, returned, names = exported
    rate(folder, returned, names)
    masks = rating.collect_masks(returned, key)
    listed = json.loads(key.read_text())["cases"]
    for name in names:
        expected = np.asarray(nib.load(returned / f"{name}_mask.nii.gz").dataobj) > 0
        assert np.array_equal(masks[listed[name]["participant_id"], listed[name]["kind"]], expected)
    edits = rating.describe_edits(returned, key, folder)
    assert [edit["case"] for edit in edits] == names
    assert all(0 < edit["removed_ml"] < edit["preliminary_ml"] and edit["added_ml"] == 0 for edit in edits)


def test_an_empty_mask_says_that_there_is_no_lesion(exported):
    folder, key, returned, names = exported
    rate(folder, returned, names)
    save(returned / f"{names[0]}_mask.nii.gz", np.zeros((10, 12, 6)))
    assert sum(not mask.any() for mask in rating.collect_masks(returned, key).values()) == 1


def test_an_editor_may_turn_the_axes_and_choose_its_label(exported):
    folder, key, returned, names = exported
    rate(folder, returned, names)
    before = rating.collect_masks(returned, key)
    path = returned / f"{names[2]}_mask.nii.gz"
    image = nib.load(path)
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt("LSP"))
    turned = image.as_reoriented(turn)
    path.unlink()
    save(path.with_suffix(""), 255 * np.asarray(turned.dataobj), turned.affine)  # not compressed, either
    after = rating.collect_masks(returned, key)
    assert all(np.array_equal(before[name], after[name]) for name in before)


FAULTS = {
    "is missing": lambda path: path.unlink(),
    "belongs to no case": lambda path: path.rename(path.with_name("case-1_mask.nii.gz")),
    "lies on another grid": lambda path: save(path, np.ones((10, 12, 6)), AFFINE + np.eye(4)[:, [3, 3, 3, 0]] * 4),
    "5x12x6": lambda path: save(path, np.ones((5, 12, 6))),
    "more than 0 and one label": lambda path: save(path, np.arange(720).reshape(10, 12, 6) % 3),
    "cannot be read": lambda path: path.write_bytes(b"no image"),
    "has 4 dimensions": lambda path: save(path, np.ones((10, 12, 6, 2))),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_mask_that_cannot_be_used_is_reported_by_name(exported, message):
    folder, key, returned, names = exported
    rate(folder, returned, names)
    FAULTS[message](returned / f"{names[3]}_mask.nii.gz")
    with pytest.raises(rating.RatingError, match=message) as caught:
        rating.collect_masks(returned, key)
    assert "\n" not in str(caught.value)
    assert ("case-1_mask" if message == "belongs to no case" else names[3]) in str(caught.value)


def test_masks_without_a_key_are_an_error(exported):
    folder, key, returned, names = exported
    rate(folder, returned, names)
    key.unlink()
    with pytest.raises(rating.RatingError, match="export the cases first"):
        rating.collect_masks(returned, key)
