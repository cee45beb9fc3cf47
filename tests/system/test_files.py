"""What is written is whole, the same for the same content, and never in the place of somebody's own file."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from tof2perf.system import files
from tof2perf.system.files import WriteError, link, write_text
from tof2perf.volumes.nifti import write_volume


def test_same_content_gives_the_same_bytes(tmp_path, rng):
    array = rng.normal(size=(4, 5, 6))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, array, np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_files_that_belong_together_arrive_together_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.adding(tmp_path) as parts:
        (parts / "a").write_text("a")
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    with files.adding(tmp_path) as parts:
        for name in "ab":
            (parts / name).write_text(name)
        assert [path.name for path in tmp_path.iterdir()] == [parts.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(WriteError, match="absent: cannot be written to"), files.adding(tmp_path / "absent"):
        pass


def test_masks_are_stored_as_bytes(tmp_path):
    write_volume(tmp_path / "m.nii.gz", np.eye(3)[..., None] > 0, np.eye(4))
    raw = gzip.decompress((tmp_path / "m.nii.gz").read_bytes())
    assert nib.Nifti1Image.from_bytes(raw).get_data_dtype() == np.uint8


def test_a_link_never_replaces_a_file_of_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with pytest.raises(WriteError, match="nothing is overwritten"):
        link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"


def test_without_symbolic_links_hard_ones_are_made(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")

    def forbidden(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(files.Path, "symlink_to", forbidden)
    for _ in range(2):
        link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a") and not (tmp_path / "b").is_symlink()
