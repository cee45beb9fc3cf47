"""From weights and a TOF to a map in physical units."""

import numpy as np
import pytest
import torch

from tof2perf.gan.inference import generate, load_generator
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.weights import WeightsError, write_tensors
from tof2perf.maps import TOF_BOUNDS, get_map, normalise

SIZE = {"levels": 3, "generator_filters": 2, "input": "tof"}
SHAPE = (16, 12, 10)


@pytest.fixture
def network():
    start = torch.Generator().manual_seed(4)
    return UNetGenerator(levels=3, filters=2, generator=start, spread=0.2)


@pytest.fixture
def model(tmp_path, network):
    write_tensors(tmp_path / "generator.safetensors", network.state_dict(), {"network": SIZE, "map": "tmax"})
    return tmp_path


def test_generated_map_is_in_physical_units_and_zero_outside_the_brain(model, rng):
    mask = rng.uniform(size=SHAPE) > 0.5
    generated = generate(load_generator(model), rng.uniform(0, 5, SHAPE), mask, "tmax")
    low, high = get_map("tmax").bounds
    assert generated.shape == SHAPE
    assert generated.dtype == np.float32
    assert np.all(generated[~mask] == 0)
    assert low <= generated[mask].min() < generated[mask].max() <= high


def test_loaded_generator_computes_what_the_saved_one_did(model, network, rng):
    tof = rng.uniform(0, 5, SHAPE).astype(np.float32)
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(tof), TOF_BOUNDS)[None, None])[0, 0].numpy()
    low, high = get_map("cbf").bounds
    generated = generate(load_generator(model), tof, np.ones(SHAPE), "cbf")
    np.testing.assert_allclose(generated, low + (expected + 1) / 2 * (high - low), rtol=1e-5, atol=1e-4)


def test_generator_of_all_maps_gives_each_in_its_own_unit(tmp_path, rng):
    network = UNetGenerator(levels=3, filters=2, maps=5, generator=torch.Generator().manual_seed(4), spread=0.2)
    write_tensors(tmp_path / "generator.safetensors", network.state_dict(), {"network": SIZE, "map": "all"})
    tof = rng.uniform(0, 5, SHAPE).astype(np.float32)
    with torch.no_grad():
        channels = network(normalise(torch.from_numpy(tof), TOF_BOUNDS)[None, None])[0].numpy()
    for channel, name in zip(channels, ("tmax", "cbf", "cbv", "mtt", "ttp"), strict=True):
        low, high = get_map(name).bounds
        generated = generate(load_generator(tmp_path), tof, np.ones(SHAPE), name)
        np.testing.assert_allclose(generated, low + (channel + 1) / 2 * (high - low), rtol=1e-5, atol=1e-4)


def test_generator_that_mirrors_is_loaded_as_one(tmp_path, rng):
    network = UNetGenerator(levels=3, filters=2, mirrored=True)
    header = {"network": SIZE | {"input": "tof+mirror"}, "map": "tmax"}
    write_tensors(tmp_path / "generator.safetensors", network.state_dict(), header)
    assert load_generator(tmp_path).mirrored
    assert generate(load_generator(tmp_path), rng.uniform(0, 5, SHAPE), np.ones(SHAPE), "tmax").shape == SHAPE


def test_loaded_generator_is_in_eval_mode(model):
    assert not load_generator(model).training


def test_fortran_ordered_volumes_as_nibabel_gives_them_change_nothing(model, rng):
    tof, mask = rng.uniform(0, 5, SHAPE), np.ones(SHAPE, dtype=bool)
    generator = load_generator(model)
    assert np.array_equal(
        generate(generator, np.asfortranarray(tof), mask, "tmax"), generate(generator, tof, mask, "tmax")
    )


def test_missing_weights_are_named_with_the_remedy(tmp_path):
    with pytest.raises(WeightsError, match=r"generator\.safetensors: missing; train the model first"):
        load_generator(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "altered", "foreign"])
def test_damaged_weights_are_named_and_never_used(model, damage):
    path = model / "generator.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "altered":
        content[-100] ^= 1
    else:
        content = b"PK\x03\x04 a pickle in a zip"
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match=r"generator\.safetensors: damaged .*train the model"):
        load_generator(model)


def test_mask_of_another_shape_is_refused(model):
    with pytest.raises(ValueError, match="differ in shape"):
        generate(load_generator(model), np.zeros(SHAPE), np.zeros((16, 12, 9)), "tmax")
