"""Profiles and the map registry: nothing unknown, nothing of the wrong type, exact scaling."""

import dataclasses

import numpy as np
import pytest
import yaml

from tof2perf import profiles
from tof2perf.maps import MAPS, denormalise, get_map, normalise
from tof2perf.pipeline.graph import steps
from tof2perf.system.run import Run


@pytest.fixture
def laptop():
    return yaml.safe_load((profiles.FOLDER / "laptop.yaml").read_text())


def load(tmp_path, content):
    path = tmp_path / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return profiles.load_profile(path)


@pytest.mark.parametrize("path", sorted(profiles.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_loads_under_its_own_name(path):
    assert profiles.load_profile(path.stem).name == path.stem


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(profiles.ProfileError, match=r"unknown profile 'huge': choose one of .*laptop.*smoke"):
        profiles.load_profile("huge")


def test_an_unknown_key_is_an_error(tmp_path, laptop):
    laptop["training"]["l1_wieght"] = 3.0
    with pytest.raises(profiles.ProfileError, match="training: unknown key 'l1_wieght'"):
        load(tmp_path, laptop)


def test_a_missing_key_is_an_error(tmp_path, laptop):
    del laptop["preprocessing"]["shape"]
    with pytest.raises(profiles.ProfileError, match="key 'shape' is missing"):
        load(tmp_path, laptop)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", "seven"), ("seed", True), ("epochs", {"acute": 1.5}), ("network", [1])]
)
def test_a_value_of_the_wrong_type_is_an_error(tmp_path, laptop, key, value):
    laptop[key] = value
    with pytest.raises(profiles.ProfileError, match=f"{key}.*expected"):
        load(tmp_path, laptop)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("training", "schedule", "step", "schedule: expected one of constant, linear, cosine, found 'step'"),
        ("training", "criterion", "luck", "criterion: expected one of mae, ssim, found 'luck'"),
        ("training", "objective", "good", "objective: expected one of intended, released, found 'good'"),
        ("training", "precision", "half", "precision: expected one of float32, bfloat16, found 'half'"),
        (
            "preprocessing",
            "skull_strip",
            "bet2",
            "expected one of auto, given, synthstrip, deepbet, maps, found 'bet2'",
        ),
        ("network", "input", "dsc", r"input: expected one of tof, tof\+mirror, found 'dsc'"),
        ("training", "devices", 2, "1 patients cannot be shared by 2 devices; give a multiple of devices"),
        ("epochs", "acute", 0, "epochs must be at least 1"),
    ],
)
def test_a_setting_that_training_would_refuse_is_an_error_at_once(tmp_path, laptop, section, key, value, message):
    laptop[section][key] = value
    with pytest.raises(profiles.ProfileError, match=message):
        load(tmp_path, laptop)


def test_epochs_of_an_unknown_cohort_are_an_error(tmp_path, laptop):
    laptop["epochs"]["heidelberg"] = 3
    with pytest.raises(profiles.ProfileError, match="unknown cohort 'heidelberg'"):
        load(tmp_path, laptop)


OWN = {  # a third cohort, as notebooks/book/own-data.md shows it
    "train": 4,
    "validation": 1,
    "test": 2,
    "input": "cta",
    "intensity": [0, 300],
    "registration": "none",
    "maps": ["tmax", "cbf"],
}


def with_own(laptop, **changes):
    laptop["cohorts"]["clinic"] = OWN | changes
    laptop["epochs"]["clinic"] = 3
    laptop["evaluation"]["deficit_threshold_s"]["clinic"] = 6.0
    return laptop


def test_a_third_cohort_is_a_few_lines(tmp_path, laptop):
    profile = load(tmp_path, with_own(laptop))
    cohort = profile.cohorts["clinic"]
    assert (cohort.input, cohort.intensity, cohort.maps) == ("cta", (0.0, 300.0), ("tmax", "cbf"))
    assert not cohort.simulated and cohort.modality == cohort.input_title == "CTA"
    assert profiles.run_cohorts(profile.cohorts) == ["acute", "pegasus"]  # what is never simulated needs DATA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intensity": "n5"}, "expected n4 or a window"),
        ({"intensity": [300, 0]}, "expected n4 or a window"),
        ({"maps": ["cbf"]}, "tmax must be one"),
        ({"maps": ["tmax", "ktrans"]}, "choose from tmax, cbf"),
        ({"registration": "affine"}, "registration: expected one of rigid, none"),
        ({"test": 0}, "must each be at least 1"),
        ({"disease": None, "frames": "many"}, "frames: expected int"),
    ],
)
def test_a_cohort_that_cannot_work_is_an_error(tmp_path, laptop, changes, message):
    with pytest.raises(profiles.ProfileError, match=message):
        load(tmp_path, with_own(laptop, **changes))


def test_a_cohort_needs_its_epochs_and_threshold(tmp_path, laptop):
    for section in (laptop["epochs"], laptop["evaluation"]["deficit_threshold_s"]):
        with_own(laptop)
        del section["clinic"]
        with pytest.raises(profiles.ProfileError, match="has no entry for cohort 'clinic'"):
            load(tmp_path, laptop)


def test_a_simulated_cohort_needs_its_protocol(tmp_path, laptop):
    del laptop["cohorts"]["acute"]["echo_time_s"]
    with pytest.raises(profiles.ProfileError, match="key 'echo_time_s' is missing; a cohort with a disease"):
        load(tmp_path, laptop)


def test_a_cohort_without_its_protocol_is_not_simulated_by_chance():
    acute = profiles.load_profile("laptop").cohorts["acute"]
    assert acute.simulation.disease == acute.disease and acute.simulation.frames == acute.frames
    for key in ("repetition_time_s", "echo_time_s", "frames", "head_moves", "perfusion", "disease"):
        cohort = dataclasses.replace(acute, title="ours", **{key: None})
        with pytest.raises(profiles.ProfileError, match=f"^cohort 'ours': key '{key}' is missing; add it"):
            _ = cohort.simulation


@pytest.mark.parametrize("twin", ["clinic", "pegasus", "nobody"])
def test_a_twin_is_another_cohort_that_starts_from_scratch(tmp_path, laptop, twin):
    laptop["initialise_from"]["clinic"] = twin
    with pytest.raises(profiles.ProfileError, match=f"'{twin}' must be another cohort that starts from scratch"):
        load(tmp_path, with_own(laptop))


def trained(profile, data=""):
    """The models of a run: names of its training steps, and which other training each begins from."""
    cohorts = profiles.run_cohorts(profile.cohorts, data=str(data))
    listed = [
        step for step in steps(Run(profile.name, ".", str(data)), profile, cohorts) if step.notebook == "02-train"
    ]
    return {step.name.removeprefix("02-train-"): step.after[1:] for step in listed}


def test_every_map_of_every_cohort_of_a_run_has_a_model(tmp_path):
    laptop = profiles.load_profile("laptop")
    models = list(trained(laptop))
    assert len(models) == 10 and models[0] == "acute-tmax" and models[5] == "pegasus-tmax"
    assert trained(laptop)["pegasus-tmax"] == ("02-train-acute-tmax",)
    (tmp_path / "pegasus" / "sub-1").mkdir(parents=True)
    (tmp_path / "code").mkdir()
    assert trained(laptop, tmp_path)["pegasus-tmax"] == ()  # no twin in this run
    (tmp_path / "heidelberg" / "sub-1").mkdir(parents=True)
    with pytest.raises(profiles.ProfileError, match="knows no cohort 'heidelberg'"):
        trained(laptop, tmp_path)


def test_the_folder_of_one_cohort_in_place_of_its_parent_is_named_as_that(tmp_path):
    (tmp_path / "acute" / "sub-1").mkdir(parents=True)
    laptop = profiles.load_profile("laptop")
    with pytest.raises(profiles.ProfileError, match="this is the folder of one cohort; give its parent"):
        profiles.run_cohorts(laptop.cohorts, data=str(tmp_path / "acute"))
    assert profiles.run_cohorts(laptop.cohorts, data=str(tmp_path)) == ["acute"]


def test_one_generator_for_all_maps_is_the_model_of_each(tmp_path, laptop):
    laptop["together"] = True
    assert trained(load(tmp_path, laptop)) == {"acute-all": (), "pegasus-all": ("02-train-acute-all",)}


def test_one_generator_for_all_maps_needs_all_of_them(tmp_path, laptop):
    laptop["together"] = True
    with pytest.raises(profiles.ProfileError, match="clinic: together needs all of tmax, cbf"):
        load(tmp_path, with_own(laptop))


def test_what_only_own_data_need_does_not_simulate_anybody_again():
    cohort = profiles.load_profile("smoke").cohorts["acute"]
    other = {"title": "x", "input": "cta", "intensity": (0.0, 9.0), "registration": "none", "maps": ("tmax",)}
    assert dataclasses.replace(cohort, **other, train=9).simulation == cohort.simulation


def test_an_unknown_cohort_names_the_known_ones():
    with pytest.raises(profiles.ProfileError, match="unknown cohort 'x': profile laptop has acute, pegasus"):
        profiles.get_cohort(profiles.load_profile("laptop"), "x")


def test_an_unknown_map_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown map 'adc': choose one of tmax, cbf, cbv, mtt, ttp"):
        get_map("adc")


@pytest.mark.parametrize("name", MAPS)
def test_normalisation_has_an_exact_inverse_inside_the_bounds(name, rng):
    bounds = MAPS[name].bounds
    values = rng.uniform(*bounds, 1000)
    assert np.allclose(denormalise(normalise(values, bounds), bounds), values)
    assert normalise(np.array(bounds), bounds).tolist() == [-1.0, 1.0]


def test_values_beyond_the_bounds_are_clipped():
    assert normalise(np.array([-5.0, 99.0]), (0.0, 20.0)).tolist() == [-1.0, 1.0]


def test_the_lesion_rules_hold_the_papers_threshold():
    evaluation = profiles.load_profile("laptop").evaluation
    assert evaluation.rules()["threshold_s"] == evaluation.lesion_threshold_s
    assert set(evaluation.rules()) == {"threshold_s", "erosion_mm", "minimum_ml"}
