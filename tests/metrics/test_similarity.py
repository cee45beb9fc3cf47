"""Metrics against their definitions, scikit-image and hand-made cases."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as reference

from tof2perf.metrics import similarity

SHAPES = [(16, 16, 16), (9, 24, 13), (4, 30, 8), (7, 7, 7)]


def pair(rng, shape):
    real = rng.uniform(-1, 1, shape)
    return real, np.clip(real + rng.normal(0, 0.3, shape), -1, 1)


def slices_by_reference(real, generated, window=7):
    scores = [
        reference.structural_similarity(a, b, data_range=2, win_size=window)
        for a, b in zip(real, generated, strict=True)
    ]
    return (np.mean(scores) + 1) / 2


@pytest.mark.parametrize("convention", similarity.CONVENTIONS)
def test_a_volume_compared_with_itself_is_perfect(rng, convention):
    real, _ = pair(rng, (10, 12, 9))
    found = similarity.image_metrics(real, real, convention=convention, mask=np.ones(real.shape, bool), data_range=2)
    assert found["ssim"] == pytest.approx(1, abs=1e-12)
    assert (found["psnr"], found["mae"], found["nrmse"]) == (math.inf, 0, 0)


@pytest.mark.parametrize("convention", similarity.CONVENTIONS)
def test_more_noise_is_worse_by_every_metric(rng, convention):
    real = rng.uniform(-1, 1, (12, 12, 12))
    noise = rng.normal(0, 1, real.shape)
    mask = np.ones(real.shape, bool)
    little, much = (
        similarity.image_metrics(real, real + scale * noise, convention=convention, mask=mask, data_range=2)
        for scale in (0.1, 0.4)
    )
    for name, higher in similarity.METRICS.items():
        assert (little[name] > much[name]) is higher


def test_the_brain_convention_does_not_see_errors_outside_the_mask(rng):
    real, generated = pair(rng, (16, 16, 16))
    mask = np.zeros(real.shape, bool)
    mask[6:10, 6:10, 6:10] = True
    elsewhere = generated.copy()
    elsewhere[:2] = 1 - elsewhere[:2]  # further from the mask than half a window
    same = [
        similarity.image_metrics(real, values, convention="brain", mask=mask, data_range=2)
        for values in (generated, elsewhere)
    ]
    assert same[0] == pytest.approx(same[1], abs=1e-12)
    counted = [
        similarity.image_metrics(real, values, convention="paper", mask=mask, data_range=2)["mae"]
        for values in (generated, elsewhere)
    ]
    assert counted[0] != pytest.approx(counted[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_paper_convention_equals_scikit_image_slice_by_slice(rng, shape):
    real, generated = pair(rng, shape)
    found = similarity.image_metrics(real, generated, convention="paper", mask=None, data_range=2)
    assert found["ssim"] == pytest.approx(slices_by_reference(real, generated), abs=1e-6)
    assert found["psnr"] == pytest.approx(reference.peak_signal_noise_ratio(real, generated, data_range=2), abs=1e-6)
    assert found["mae"] == pytest.approx(np.abs(real - generated).mean(), abs=1e-6)
    assert found["nrmse"] == pytest.approx(reference.normalized_root_mse(real, generated), abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[3:])
def test_the_brain_convention_equals_scikit_image_inside_the_mask(rng, shape):
    real, generated = (20 * values for values in pair(rng, shape))
    mask = rng.random(shape) < 0.4
    found = similarity.image_metrics(real, generated, convention="brain", mask=mask, data_range=20)
    _, values = reference.structural_similarity(real, generated, data_range=20, full=True)
    inside = real[mask], generated[mask]
    assert found["ssim"] == pytest.approx(values[mask].mean(), abs=1e-6)
    assert found["psnr"] == pytest.approx(reference.peak_signal_noise_ratio(*inside, data_range=20), abs=1e-6)
    assert found["mae"] == pytest.approx(np.abs(inside[0] - inside[1]).mean(), abs=1e-6)
    assert found["nrmse"] == pytest.approx(reference.normalized_root_mse(*inside), abs=1e-6)


def test_ssim_of_a_whole_volume_equals_that_of_scikit_image(rng):
    real, generated = pair(rng, (37, 10, 11))
    expected = reference.structural_similarity(real, generated, data_range=2)
    assert similarity.ssim(real, generated, data_range=2) == pytest.approx(expected, abs=1e-9)
    slices = (similarity.ssim(real, generated, data_range=2, slices=True) + 1) / 2
    assert slices == pytest.approx(slices_by_reference(real, generated), abs=1e-9)


def test_single_precision_volumes_agree_with_double_precision(rng):
    real, generated = pair(rng, (16, 20, 12))
    mask = np.ones(real.shape, bool)
    for convention in similarity.CONVENTIONS:
        double, single = (
            similarity.image_metrics(
                real.astype(kind), generated.astype(kind), convention=convention, mask=mask, data_range=2
            )
            for kind in (np.float64, np.float32)
        )
        assert single == pytest.approx(double, rel=1e-6)


def test_a_volume_thinner_than_the_window_of_ssim_is_refused(rng):
    real, generated = pair(rng, (9, 8, 5))
    with pytest.raises(ValueError, match="SSIM needs 7 voxels along each axis"):
        similarity.image_metrics(real, generated, convention="paper", mask=None, data_range=2)


def test_constant_volumes_have_the_values_of_the_formula():
    real, generated = np.full((8, 8, 8), 0.5), np.full((8, 8, 8), -0.25)
    luminance = (2 * 0.5 * -0.25 + 0.0004) / (0.5**2 + 0.25**2 + 0.0004)  # C1 = (0.01 * 2)^2
    found = similarity.image_metrics(real, generated, convention="paper", mask=None, data_range=2)
    assert found["ssim"] == pytest.approx((luminance + 1) / 2, abs=1e-9)
    assert found["psnr"] == pytest.approx(20 * math.log10(2 / 0.75))
    assert (found["mae"], found["nrmse"]) == pytest.approx((0.75, 1.5))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_volumes_agree_with_scikit_image(rng, value):
    flat = np.full((9, 12, 8), value)
    for real, generated in ((flat, flat - 0.5), (flat, rng.uniform(-1, 1, flat.shape)), (flat, flat)):
        slices = similarity.image_metrics(real, generated, convention="paper", mask=None, data_range=2)
        assert slices["ssim"] == pytest.approx(slices_by_reference(real, generated), abs=1e-6)
        _, values = reference.structural_similarity(real, generated, data_range=2, full=True)
        cube = similarity.image_metrics(real, generated, convention="brain", mask=np.ones(flat.shape), data_range=2)
        assert cube["ssim"] == pytest.approx(values.mean(), abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(7, 22)] * 3), st.floats(0.01, 50), st.integers(0, 2**32 - 1))
def test_random_volumes_of_any_shape_and_range_agree_with_scikit_image(shape, width, seed):
    rng = np.random.default_rng(seed)
    real = rng.uniform(0, width, shape)
    generated = real + rng.normal(0, 0.2 * width, shape)
    found = similarity.image_metrics(real, generated, convention="brain", mask=np.ones(shape), data_range=width)
    _, values = reference.structural_similarity(real, generated, data_range=width, full=True)
    assert found["ssim"] == pytest.approx(values.mean(), abs=1e-6)
    psnr = reference.peak_signal_noise_ratio(real, generated, data_range=width)
    assert found["psnr"] == pytest.approx(psnr, abs=1e-6)
    assert found["nrmse"] == pytest.approx(reference.normalized_root_mse(real, generated), abs=1e-6)
    slices = similarity.image_metrics(real, generated, convention="paper", mask=None, data_range=width)
    expected = [reference.structural_similarity(a, b, data_range=width) for a, b in zip(real, generated, strict=True)]
    assert slices["ssim"] == pytest.approx((np.mean(expected) + 1) / 2, abs=1e-6)


def test_an_error_against_an_all_zero_volume_is_infinitely_large_in_nrmse():
    zeros = np.zeros((8, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = similarity.image_metrics(zeros, zeros + 1, convention="paper", mask=None, data_range=2)
    assert found["nrmse"] == math.inf


def test_published_ssim_scale_runs_from_zero_to_one():
    # A wave as long as the window has mean 0 in every window; inverted, its plain SSIM is near -1, shown as near 0.
    wave = np.broadcast_to(np.sin(2 * np.pi * np.arange(16) / similarity.WINDOW), (4, 16, 16))
    found = similarity.image_metrics(wave, -wave, convention="paper", mask=None, data_range=2)
    assert 0 <= found["ssim"] < 0.01


def test_both_conventions_scale_and_clip_physical_values(rng):
    real, generated = rng.uniform(0, 30, (10, 10, 10)), rng.uniform(0, 30, (10, 10, 10))
    mask = rng.random(real.shape) < 0.6
    found = similarity.both_conventions(real, generated, mask=mask, bounds=(0.0, 20.0))
    clipped = np.clip(real, 0, 20), np.clip(generated, 0, 20)
    assert found["brain"]["mae"] == pytest.approx(np.abs(clipped[0] - clipped[1])[mask].mean())
    assert found["paper"]["mae"] == pytest.approx(np.abs(clipped[0] - clipped[1]).mean() / 10)


BAD = {
    "unknown convention": {"convention": "neither"},
    "equal shape": {"generated": np.zeros((8, 8, 9))},
    "two 3D volumes": {"real": np.zeros((8, 8)), "generated": np.zeros((8, 8))},
    "NaN or infinite": {"generated": np.full((8, 8, 8), np.nan)},
    "data_range is 0": {"data_range": 0},
    "needs a brain mask": {"mask": None},
    "0 voxels": {"mask": np.zeros((8, 8, 8), bool)},
    "finer grid": {"real": np.zeros((8, 8, 2)), "generated": np.ones((8, 8, 2)), "mask": np.ones((8, 8, 2))},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_clear_line(message):
    good = {
        "real": np.zeros((8, 8, 8)),
        "generated": np.ones((8, 8, 8)),
        "convention": "brain",
        "mask": np.ones((8, 8, 8), bool),
        "data_range": 2,
    }
    given = good | BAD[message]
    with pytest.raises(ValueError, match=message) as caught:
        similarity.image_metrics(given.pop("real"), given.pop("generated"), **given)
    assert "\n" not in str(caught.value)
