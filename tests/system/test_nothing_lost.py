"""Originals are never touched; killed, crowded out of the disk or started twice, no run leaves a half file behind."""

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.made_up_head import COHORT, SETTINGS, images, write
from helpers.tiny_model import write_model

from tof2perf.__main__ import main
from tof2perf.cohorts import layout, workspace
from tof2perf.cohorts.participants import SPLITS
from tof2perf.pipeline.execution import ExecutionError, run_notebook
from tof2perf.prediction import predict
from tof2perf.preprocessing import preprocess
from tof2perf.preprocessing.training_range import RECORD
from tof2perf.system.files import WriteError, locked, write_bytes, write_json, write_text

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENTS = ("sub-0001", "sub-0002", "sub-0003")
PREPROCESS = """
import sys
from pathlib import Path
from helpers.made_up_head import COHORT, SETTINGS
from tof2perf.preprocessing import preprocess
preprocess.preprocess_cohort(Path(sys.argv[1]), Path(sys.argv[2]), cohort=COHORT, settings=SETTINGS, jobs=1)
"""
# Ends the process as a power cut would, when the given file is about to take its place.
KILLED = """
import os, signal, sys
replace = os.replace
def cut(source, target):
    if str(target).endswith(sys.argv[3]):
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = cut
"""
HOLD = """
import sys, time
from pathlib import Path
from tof2perf.system.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def python(code, *words, **options):
    """Run code in a process of its own, with the tests and the package to import from."""
    environment = os.environ | {
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def seen(folder):
    """Everything there is to see of a folder: names, bytes and times of writing."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {name: digest for name, (digest, _) in seen(folder).items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A cohort of three patients that may only be read."""
    folder = tmp_path_factory.mktemp("source") / "acute"
    rng = np.random.default_rng(5)
    for patient in PATIENTS:
        write(folder, patient, images(rng))
    rows = "".join(f"{patient}\t{split}\n" for patient, split in zip(PATIENTS, SPLITS, strict=True))
    write_json(folder / "dataset_description.json", {"Name": "clinic"})
    write_text(folder / "participants.tsv", f"participant_id\tsplit\n{rows}")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """The cohort preprocessed in one go."""
    out = tmp_path_factory.mktemp("finished") / "run" / "acute"
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    return out


@pytest.fixture(scope="module")
def model(finished, tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("weights") / "acute_all", "all")
    write_bytes(folder / RECORD, (finished / RECORD).read_bytes())
    return folder


def scan_of(source):
    return layout.file_path(source, "sub-0001", "tof"), layout.file_path(source, "sub-0001", "brain")


def test_originals_are_only_read(source, model, tmp_path):
    before, weights = seen(source), seen(model)
    preprocess.preprocess_cohort(source, tmp_path / "run" / "acute", cohort=COHORT, settings=SETTINGS, jobs=1)
    tof, brain = scan_of(source)
    predict(tof, model, tmp_path / "maps", brain_mask=brain, progress=False)
    assert seen(source) == before and seen(model) == weights


def test_maps_may_be_written_beside_the_original(source, model, tmp_path):
    for path in scan_of(source):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = seen(tmp_path)
    tof, brain = (tmp_path / path.name for path in scan_of(source))
    predict(tof, model, tmp_path, brain_mask=brain, progress=False)
    after = seen(tmp_path)
    assert len(after) == len(before) + 11 and before.items() <= after.items()


@pytest.mark.parametrize(
    "last",
    [
        "sub-0002_mtt.nii.gz",
        pytest.param("sub-0002_qc.json", marks=pytest.mark.slow),
        pytest.param("/qc.csv", marks=pytest.mark.slow),
    ],
)
def test_preprocessing_that_was_killed_goes_on_and_ends_with_the_same_bytes(source, finished, tmp_path, last):
    out = tmp_path / "run" / "acute"
    done = python(KILLED + PREPROCESS, source, out, last)
    assert done.returncode == -signal.SIGKILL
    assert [path for path in out.iterdir() if path.name.endswith(".part")]  # half a file, under no name of a result
    assert not (out / last.strip("/")).exists()
    kept = seen(out)
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert contents(out) == contents(finished)
    first = [f"sub-0001_{name}" for name in ("tof.nii.gz", "tmax.nii.gz", "qc.json")]
    assert all(seen(out)[name] == kept[name] for name in first)  # not made again


def test_running_twice_changes_no_file(source, tmp_path):
    out = tmp_path / "run" / "acute"
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    once = contents(out)
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert contents(out) == once


def no_file_beyond(size):
    """What a child process is to do before it starts: let the system refuse to let any file grow beyond ``size``."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_volume_for_which_there_is_no_room_is_one_clear_line_and_no_file(source, finished, tmp_path):
    # The system's own refusal, in the place and by the way in which a full disk refuses.
    out = tmp_path / "run" / "acute"
    done = python(PREPROCESS, source, out, preexec_fn=no_file_beyond(5000))
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert str(out / "sub-0001_tof.nii.gz") in error
    assert "cannot be written (File too large); make room there or choose another folder" in error
    assert not any(out.iterdir())
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert contents(out) == contents(finished)


def command(source, model, out):
    tof, brain = scan_of(source)
    words = ["-m", "tof2perf", "predict", tof, "--weights", model, "--out", out, "--brain", brain]
    return [sys.executable, *map(str, words)]


@pytest.mark.slow
def test_a_prediction_for_which_there_is_no_room_leaves_earlier_maps_as_they_were(source, model, tmp_path):
    tof, brain = scan_of(source)
    predict(tof, model, tmp_path, brain_mask=brain, progress=False)
    before = seen(tmp_path)
    done = subprocess.run(
        command(source, model, tmp_path),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=no_file_beyond(30_000),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}")
    assert "cannot be written (File too large); make room there" in error
    assert seen(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_has_ended(
    source, model, finished, tmp_path, capsys
):
    out = tmp_path / "run" / "acute"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(WriteError, match="another run is writing here; wait until it has ended"):
            preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
        assert main(command(source, model, out)[3:]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {out}: another run is writing here")
        assert not any(out.iterdir())
    finally:
        first.kill()  # however the first one ends, nothing stays behind that must be removed by hand
        first.communicate()
    preprocess.preprocess_cohort(source, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    assert contents(out) == contents(finished)


@pytest.mark.slow
def test_a_notebook_run_by_hand_is_refused_too(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    own = tmp_path / "own"
    own.mkdir()
    (own / "acute").symlink_to(source)
    place = workspace.Workspace("smoke", tmp_path, str(own)).preprocessed("acute")
    given = {"profile": "smoke", "root": str(tmp_path), "data": str(own), "cohort": "acute"}
    page, failed = REPOSITORY / "notebooks" / "01-preprocess.ipynb", tmp_path / "failed.ipynb"
    with locked(place), pytest.raises(ExecutionError, match="another run is writing here; wait until it has"):
        run_notebook(page, tmp_path / "executed.ipynb", parameters=given, failed=failed)
    assert not any(place.iterdir())


def test_a_folder_is_free_again_after_a_run_that_failed(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    (tmp_path / ".a.nii.gz.x.part").write_text("half")
    (tmp_path / ".maps.x.part").mkdir()
    (tmp_path / ".maps.x.part" / "a.nii.gz").write_text("one of many")
    with locked(tmp_path):
        assert not any(tmp_path.iterdir())
        with pytest.raises(WriteError, match="another run"), locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file/out: cannot be written to .*; choose another folder"):
        locked(tmp_path / "file" / "out").__enter__()
