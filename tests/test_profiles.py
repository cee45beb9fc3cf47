"""Profiles and the map registry: nothing unknown, nothing of the wrong type, exact scaling."""

import numpy as np
import pytest
import yaml

from tof2perf import profiles
from tof2perf.maps import MAPS, denormalise, get_map, normalise


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


def test_epochs_of_an_unknown_cohort_are_an_error(tmp_path, laptop):
    laptop["epochs"]["heidelberg"] = 3
    with pytest.raises(profiles.ProfileError, match="unknown cohort 'heidelberg'"):
        load(tmp_path, laptop)


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
