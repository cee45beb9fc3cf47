"""One scan: maps in physical units on the TOF's own grid, said where they come from, doubted where they should be."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.made_up_head import COHORT, SETTINGS, images, write
from helpers.tiny_model import write_model

from tof2perf.__main__ import main
from tof2perf.gan.inference import generate, load_generator
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.pairs import load_pair
from tof2perf.gan.weights import WeightsError
from tof2perf.maps import MAPS, get_map
from tof2perf.pipeline.execution import run_notebook
from tof2perf.prediction import RESEARCH_USE, PredictionError, find_models, predict
from tof2perf.preprocessing import preprocess
from tof2perf.preprocessing.training_range import RECORD, unlike
from tof2perf.system.files import write_json, write_text
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import write_volume

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run: one patient preprocessed, models of one cohort where training leaves them."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "data" / "simulated" / "smoke" / "acute"
    parts = images(np.random.default_rng(5))
    for name in MAPS:  # maps of all of the TOF: where they end the patient's brain would be cut for training
        parts[name] = nib.Nifti1Image(np.asarray(parts[name].dataobj) + 1, parts[name].affine)
    write(folder, "sub-0001", parts)
    write_text(folder / "participants.tsv", "participant_id\tsplit\nsub-0001\ttrain\n")
    write_json(folder / "dataset_description.json", {"Name": "acute", "GeneratedBy": [{"Name": "tof2perf.phantom"}]})
    out = root / "data" / "preprocessed" / "smoke" / "acute"
    preprocess.preprocess_cohort(folder, out, cohort=COHORT, settings=SETTINGS, jobs=1)
    for number, name in enumerate(MAPS):
        model = write_model(root / "results" / "smoke" / "models" / f"acute_{name}", name, seed=number)
        write_json(model / RECORD, json.loads((out / RECORD).read_text()))  # as training does
    return root


@pytest.fixture(scope="module")
def models(root):
    return root / "results" / "smoke" / "models"


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """The TOF and brain mask of that patient, as somebody else might name and store them."""
    folder = tmp_path_factory.mktemp("scan")
    parts = images(np.random.default_rng(5))
    for name, file in (("tof", "7_TOF.nii"), ("brain", "7_brain.nii.gz")):
        image = parts[name].as_reoriented([[1, -1], [2, 1], [0, -1]])
        write_volume(folder / file, np.asarray(image.dataobj), image.affine)
    return folder / "7_TOF.nii", folder / "7_brain.nii.gz"


@pytest.fixture(scope="module")
def maps_of_scan(models, scan, tmp_path_factory):
    return predict(scan[0], models, tmp_path_factory.mktemp("maps"), brain_mask=scan[1], progress=False)


def test_five_maps_lie_on_the_tofs_own_voxels_in_their_units_and_are_zero_outside_the_brain(maps_of_scan, scan):
    tof = nib.load(scan[0])
    assert set(maps_of_scan.paths) == {*MAPS, "mask"}
    brain = nib.load(maps_of_scan.paths["mask"]).get_fdata() > 0
    given = nib.load(scan[1]).get_fdata() > 0
    assert brain.sum() > 0.9 * given.sum() and not brain[~given].any()
    for name in MAPS:
        image = nib.load(maps_of_scan.paths[name])
        assert image.shape == tof.shape and np.array_equal(image.affine, tof.affine)
        assert image.get_data_dtype() == np.float32
        values = image.get_fdata()
        low, high = get_map(name).bounds
        assert low <= values.min() < values.max() <= high
        assert not values[~brain].any()
        assert values[brain].std() > 0


def test_a_map_is_what_evaluation_makes_of_the_preprocessed_patient(maps_of_scan, root, models):
    folder = root / "data" / "preprocessed" / "smoke" / "acute"
    for name in MAPS:
        pair = load_pair(folder, "sub-0001", name)
        expected = generate(load_generator(models / f"acute_{name}"), pair.tof, pair.mask, name)
        image = nib.as_closest_canonical(nib.load(maps_of_scan.paths[name]))
        fine, inside = space.resize_masked(expected, pair.mask, image.shape)
        brain = inside & (images(np.random.default_rng(5))["brain"].get_fdata() > 0)
        np.testing.assert_allclose(image.get_fdata(), np.where(brain, fine, 0), rtol=1e-5)


def test_the_sidecar_says_unit_use_and_what_the_map_was_made_from(maps_of_scan, scan, models):
    for name in MAPS:
        path = maps_of_scan.paths[name]
        assert path.name == f"7_desc-generated_{name}.nii.gz"
        facts = json.loads(path.with_name(f"7_desc-generated_{name}.json").read_text())
        assert facts["Units"] == get_map(name).unit
        assert facts["ResearchUse"] == RESEARCH_USE
        assert facts["TrainedOn"] == "simulated cohort, run smoke, acute"
        assert facts["SkullStripping"] == "given"
        weights = models / f"acute_{name}" / "generator.safetensors"
        assert facts["Weights"] == {
            "Model": f"acute_{name}",
            "SHA256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        assert facts["Sources"] == ["7_TOF.nii", "7_brain.nii.gz"]  # names alone: a path may tell who it is
        assert facts["SourcesSHA256"] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in scan]


def test_the_same_scan_gives_the_same_bytes(maps_of_scan, models, scan, tmp_path):
    again = predict(scan[0], models, tmp_path, brain_mask=scan[1], progress=False)
    folders = (made.paths["mask"].parent for made in (maps_of_scan, again))
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert len(first) == 11 and first == second


def test_a_generator_of_all_maps_looks_at_the_scan_once(models, scan, tmp_path, monkeypatch):
    model = write_model(tmp_path / "moved" / "mine_all", "all")
    (model / RECORD).write_bytes((models / "acute_tmax" / RECORD).read_bytes())
    passes = []
    forward = UNetGenerator.forward
    monkeypatch.setattr(UNetGenerator, "forward", lambda self, tof: passes.append(1) or forward(self, tof))
    together = predict(scan[0], model, tmp_path / "a", brain_mask=scan[1], progress=False)
    assert len(passes) == 1 and set(together.paths) == {*MAPS, "mask"}
    by_folder = predict(scan[0], model.parent, tmp_path / "b", brain_mask=scan[1], progress=False)
    assert len(passes) == 2
    assert by_folder.paths["cbf"].read_bytes() == together.paths["cbf"].read_bytes()
    predict(scan[0], models, tmp_path / "c", brain_mask=scan[1], progress=False)
    assert len(passes) == 2 + 5


# --- the weights -----------------------------------------------------------------------------------------------------


def test_the_cohort_must_be_chosen_where_there_are_several(models, tmp_path):
    for cohort_name in ("acute", "pegasus"):
        write_model(tmp_path / f"{cohort_name}_tmax", "tmax")
    with pytest.raises(PredictionError, match="several cohorts; choose a cohort: acute, pegasus"):
        find_models(tmp_path, maps=["tmax"])
    with pytest.raises(PredictionError, match="no models of 'isles'; choose a cohort: acute, pegasus"):
        find_models(tmp_path, cohort_name="isles", maps=["tmax"])
    (model,) = find_models(tmp_path, cohort_name="pegasus", maps=["tmax"])
    assert (model.folder.name, model.maps) == ("pegasus_tmax", ("tmax",))
    with pytest.raises(PredictionError, match="has no pegasus_cbf; train it"):
        find_models(tmp_path, cohort_name="pegasus")
    assert [entry.maps for entry in find_models(models)] == [(name,) for name in MAPS]


def test_a_single_model_makes_its_own_map_alone(models):
    (model,) = find_models(models / "acute_cbv")
    assert model.maps == ("cbv",)
    with pytest.raises(PredictionError, match="makes cbv alone"):
        find_models(models / "acute_cbv", maps=["tmax"])


def test_missing_or_damaged_weights_are_named(models, scan, tmp_path):
    with pytest.raises(PredictionError, match="no such folder"):
        find_models(tmp_path / "absent")
    with pytest.raises(PredictionError, match="train models first"):
        find_models(tmp_path)
    folder = write_model(tmp_path / "acute_tmax", "tmax")
    write_json(folder / RECORD, json.loads((models / "acute_tmax" / RECORD).read_text()))
    content = bytearray((folder / "generator.safetensors").read_bytes())
    content[-50] ^= 1
    (folder / "generator.safetensors").write_bytes(bytes(content))
    with pytest.raises(WeightsError, match="damaged"):
        predict(scan[0], folder, tmp_path / "out", brain_mask=scan[1], progress=False)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_say_how_to_prepare_a_scan_are_refused(scan, tmp_path):
    folder = write_model(tmp_path / "weights" / "acute_tmax", "tmax")
    with pytest.raises(PredictionError, match=rf"{folder / RECORD}: missing, it says how to prepare a TOF"):
        predict(scan[0], folder, tmp_path / "out", brain_mask=scan[1], progress=False)
    assert not (tmp_path / "out").exists()


# --- input that is unlike the training data --------------------------------------------------------------------------


def test_a_scan_like_the_training_data_is_not_warned_about(maps_of_scan):
    assert maps_of_scan.warnings == [
        "the weights learned from simulated patients: what they make of a real scan is a demonstration only"
    ]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("thick slices", "voxel size along z"),
        ("cut", "field of view along z"),
        ("cut", "brain"),
        ("contrast", "percentile"),
    ],
)
def test_a_scan_unlike_the_training_data_is_warned_about(models, tmp_path, change, word):
    parts = images(np.random.default_rng(5))
    tof, brain = parts["tof"], parts["brain"]
    if change == "thick slices":
        tof, brain = (
            nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::2], image.affine @ np.diag([1, 1, 2, 1]))
            for image in (tof, brain)
        )
    elif change == "cut":
        tof, brain = (image.slicer[:, :, 8:20] for image in (tof, brain))
    else:
        values = np.asarray(tof.dataobj)
        tof = nib.Nifti1Image(values + 5 * np.clip(values - 400, 0, None), tof.affine)
    for name, image in (("tof", tof), ("mask", brain)):
        write_volume(tmp_path / f"{name}.nii.gz", np.asarray(image.dataobj), image.affine)
    made = predict(
        tmp_path / "tof.nii.gz", models, tmp_path / "out", brain_mask=tmp_path / "mask.nii.gz", progress=False
    )
    said = [warning for warning in made.warnings if word in warning]
    assert said and all("in the training data" in warning for warning in said)
    assert json.loads((tmp_path / "out" / "tof_desc-generated_cbf.json").read_text())["Warnings"] == made.warnings


def test_another_way_to_find_the_brain_than_in_training_is_told(models, scan, tmp_path):
    folder = write_model(tmp_path / "acute_tmax", "tmax")
    record = json.loads((models / "acute_tmax" / RECORD).read_text())
    assert record["skull_strip"] == ["given"]
    write_json(folder / RECORD, record | {"skull_strip": ["synthstrip"], "source": "own data clinic"})
    made = predict(scan[0], folder, tmp_path / "out", brain_mask=scan[1], progress=False)
    assert made.warnings == ["the brain was found otherwise (given) than for training (synthstrip)"]
    assert made.label == "own data clinic, run smoke, acute"


def test_the_range_is_widened_by_half_of_itself_or_a_tenth_of_the_value():
    record = {"ranges": {"brain_ml": [1000.0, 1400.0], "voxel_x_mm": [1.0, 1.0]}}
    assert unlike({"brain_ml": 1590.0, "voxel_x_mm": 1.09}, record) == []
    assert len(unlike({"brain_ml": 790.0, "voxel_x_mm": 1.11}, record)) == 2


# --- bad input, and the command line ---------------------------------------------------------------------------------


def spoilt(case, folder):
    """A file that is no TOF; what the error must name."""
    path = folder / "scan.nii.gz"
    values, affine = np.random.default_rng(1).random((8, 8, 8), np.float32), np.eye(4)
    if case == "4D":
        write_volume(path, np.stack([values, values], axis=-1), affine)
    elif case == "NaN":
        values[1, 1, 1] = np.nan
        write_volume(path, values, affine)
    elif case == "all voxels are equal":
        write_volume(path, values * 0, affine)
    elif case == "singular":
        image = nib.Nifti1Image(values, affine)
        image.header.set_sform(np.diag([1.0, 0, 1, 1]), code=1)
        image.header["qform_code"] = 0
        path.write_bytes(b"")
        nib.save(nib.Nifti1Image(values, None, image.header), path)
    elif case == "cannot be read":
        path.write_bytes(b"this is a text")
    return path


@pytest.mark.parametrize("case", ["4D", "NaN", "all voxels are equal", "singular", "cannot be read", "missing"])
def test_a_bad_scan_is_one_line_and_leaves_nothing(models, tmp_path, capsys, case):
    path = spoilt(case, tmp_path)
    assert main(["predict", str(path), "--weights", str(models), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    assert str(path) in message
    assert {"4D": "4 dimensions"}.get(case, case) in message
    assert not (tmp_path / "out").exists()


def without_orientation(source, target):
    """Copy an image without qform and sform."""
    image = nib.load(source)
    bare = nib.Nifti1Image(np.asarray(image.dataobj), None)
    bare.header.set_zooms(image.header.get_zooms())
    bare.header["qform_code"] = bare.header["sform_code"] = 0
    nib.save(bare, target)
    return target


def test_a_scan_without_orientation_is_refused_until_its_orientation_is_stated(models, scan, tmp_path, maps_of_scan):
    tof, brain = (without_orientation(path, tmp_path / path.name) for path in scan)
    model = models / "acute_cbf"
    with pytest.raises(nifti.CohortError, match="orientation is unknown: qform_code and sform_code are 0"):
        predict(tof, model, tmp_path / "maps", brain_mask=brain, progress=False)
    with pytest.raises(nifti.CohortError, match="unknown orientation 'RAR'"):
        predict(tof, model, tmp_path / "maps", brain_mask=brain, orientation="RAR", progress=False)
    assert not (tmp_path / "maps").exists()
    stated = "".join(nib.aff2axcodes(nib.load(scan[0]).affine))
    made = predict(tof, model, tmp_path / "maps", brain_mask=brain, orientation=stated.lower(), progress=False)
    assert f"{stated} was stated by hand" in made.warnings[-1]
    first, second = (nib.load(paths["cbf"]) for paths in (made.paths, maps_of_scan.paths))
    assert np.allclose(first.affine[:3, :3], second.affine[:3, :3])
    np.testing.assert_allclose(first.get_fdata(), second.get_fdata(), rtol=1e-4)
    with pytest.raises(nifti.CohortError, match="its header states an orientation; leave out"):
        predict(scan[0], model, tmp_path / "maps", brain_mask=scan[1], orientation="RAS", progress=False)


def test_a_brain_that_no_head_holds_is_refused(models, tmp_path):
    parts = images(np.random.default_rng(5))
    for name in ("tof", "brain"):  # voxels half as long again along every axis, as a wrong voxel size gives them
        image = parts[name]
        write_volume(tmp_path / f"{name}.nii.gz", np.asarray(image.dataobj), image.affine @ np.diag([1.5, 1.5, 1.5, 1]))
    with pytest.raises(nifti.CohortError, match=r"a brain of 3,0\d\d ml \(given\); no head is that large"):
        predict(tmp_path / "tof.nii.gz", models, tmp_path / "out", brain_mask=tmp_path / "brain.nii.gz", progress=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_one_line_and_leaves_no_folder(models, scan, tmp_path, capsys):
    words = ["predict", str(scan[0]), "--weights", str(models), "--out", str(tmp_path / "out"), "--device", "cuda"]
    assert main(words) == 1
    assert capsys.readouterr().err == "error: no device 'cuda' on this machine; choose cpu or auto\n"
    assert not (tmp_path / "out").exists()


def test_a_mask_beside_the_head_and_a_scan_without_a_brain_are_refused(models, scan, tmp_path):
    mask = nib.load(scan[1])
    far = mask.affine.copy()
    far[:3, 3] += 5000
    write_volume(tmp_path / "far.nii.gz", np.asarray(mask.dataobj), far)
    with pytest.raises(nifti.CohortError, match=r"7_TOF\.nii.*found no brain"):
        predict(scan[0], models, tmp_path / "out", brain_mask=tmp_path / "far.nii.gz", progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_an_input_is_never_overwritten(models, maps_of_scan, scan, tmp_path):
    mask = maps_of_scan.paths["mask"]
    before = mask.read_bytes()
    with pytest.raises(PredictionError, match="would be overwritten"):
        predict(scan[0], models, mask.parent, brain_mask=mask, progress=False)
    assert mask.read_bytes() == before


def test_the_command_line_predicts_and_shows_progress_and_warnings(models, scan, tmp_path):
    command = [sys.executable, "-m", "tof2perf", "predict", scan[0], "--weights", models, "--cohort", "acute"]
    done = subprocess.run(
        [*command, "--brain", scan[1], "--maps", "tmax", "cbf", "--out", tmp_path / "out"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *paths, last = done.stdout.splitlines()
    assert [Path(path).name for path in paths] == [
        f"7_desc-generated_{name}.nii.gz" for name in ("tmax", "cbf", "mask")
    ]
    assert "simulated cohort, run smoke, acute" in last and RESEARCH_USE in last
    assert "warning: the weights learned from simulated patients" in done.stderr
    assert "4/4" in done.stderr


def test_the_record_must_be_sound(models, scan, tmp_path):
    folder = write_model(tmp_path / "acute_tmax", "tmax")
    record = {"run": "x", "source": "own data", "settings": dataclasses.asdict(SETTINGS) | {"shape": 3}, "ranges": {}}
    write_json(folder / RECORD, record)
    with pytest.raises(nifti.CohortError, match=r"inputs\.json: cannot be read"):
        predict(scan[0], folder, tmp_path / "out", brain_mask=scan[1], progress=False)


@pytest.mark.slow
def test_the_page_on_one_scan_runs_alone_and_shows_the_maps_beside_the_tof(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    page, target = REPOSITORY / "notebooks" / "predict.ipynb", tmp_path / "predict.ipynb"
    run_notebook(page, target, parameters={"out": str(tmp_path / "maps")}, failed=tmp_path / "failed.ipynb")
    assert len(list((tmp_path / "maps").glob("sub-0007_desc-generated_*.json"))) == 5
    tmax = np.ma.masked_equal(nib.load(tmp_path / "maps" / "sub-0007_desc-generated_tmax.nii.gz").get_fdata(), 0)
    assert abs(tmax[:8].mean() - tmax[8:].mean()) > 2  # s: the generator has found the side whose vessel is missing
    outputs = [output for cell in nbformat.read(target, 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    text = "".join(output.get("text", "") for output in outputs)
    assert f"weights: example volumes, no patients, run example, example. {RESEARCH_USE}" in text
