"""Motion correction against known head motion, with a bolus passing in the meantime."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tof2perf.perfusion.head_motion import motion_correct

VOXEL = np.array([4.0, 4.0, 5.0])
SHAPE = (40, 44, 24)
CORNERS = np.array(np.meshgrid([-50, 50], [-55, 55], [-40, 40])).reshape(3, -1).T


@pytest.fixture(scope="module")
def moved_head():
    """Ten frames of a lumpy head (bolus in frames 5 to 7) and the true matrices (time, 4, 4) in mm from the centre."""
    rng = np.random.default_rng(3)
    axes = np.meshgrid(*(mm * (np.arange(n) - (n - 1) / 2) for mm, n in zip(VOXEL, SHAPE, strict=True)), indexing="ij")
    points = np.stack(axes, axis=-1)
    centres, sizes = rng.uniform(-45, 45, (60, 3)), rng.uniform(8, 14, 60)

    def head(at):
        outline = 1 / (1 + np.exp(8 * (np.linalg.norm(at / [65, 75, 50], axis=-1) - 1)))
        lumps = sum(np.exp(-0.5 * np.square(at - c).sum(axis=-1) / s**2) for c, s in zip(centres, sizes, strict=True))
        return outline, outline * lumps

    truth = np.tile(np.eye(4), (10, 1, 1))
    series = np.empty((*SHAPE, 10))
    for frame in range(10):
        if frame >= 3:
            truth[frame, :3, :3] = Rotation.from_euler("xyz", rng.normal(0, 1.5, 3), degrees=True).as_matrix()
            truth[frame, :3, 3] = rng.normal(0, 1.5, 3)
        back = (points - truth[frame, :3, 3]) @ truth[frame, :3, :3]  # where in the head each voxel now looks
        tissue, lumps = head(back)
        drop = {5: 0.2, 6: 0.5, 7: 0.3}.get(frame, 0.0)
        volume = 800 * tissue * (1 - 0.5 * drop) + 150 * lumps * (1 - drop)
        series[..., frame] = volume + rng.normal(0, 15, SHAPE)
    return series, truth


def distance(matrices, truth):
    """Mean distance in mm between where the corners of a head go and where they should, per frame."""
    difference = matrices - truth
    return np.linalg.norm(CORNERS @ difference[:, :3, :3].transpose(0, 2, 1) + difference[:, None, :3, 3], axis=2).mean(
        1
    )


def test_known_motion_is_recovered_to_a_tenth_of_a_millimetre_and_to_a_quarter_of_it_during_the_bolus(moved_head):
    series, truth = moved_head
    _, matrices = motion_correct(series, voxel_mm=tuple(VOXEL), baseline=(0, 3))
    before = distance(np.tile(np.eye(4), (10, 1, 1)), truth)
    after = distance(matrices, truth)
    assert before[3:].mean() > 2
    assert after[[3, 4, 8, 9]].max() < 0.15
    assert after[5:8].mean() < 0.25 * before[5:8].mean()


def test_corrected_frames_resemble_the_reference_more_than_the_moved_ones(moved_head):
    series, _ = moved_head
    corrected, _ = motion_correct(series, voxel_mm=tuple(VOXEL), baseline=(0, 3))
    inner = (slice(4, -4),) * 3
    reference = ndimage.gaussian_filter(series[..., :3].mean(axis=3), 0.5)[inner]
    for frame in (3, 4, 8, 9):
        before, after = (np.abs(s[..., frame][inner] - reference).mean() for s in (series, corrected))
        assert after < before


def test_still_head_stays_where_it_is(moved_head):
    series, _ = moved_head
    still = np.repeat(series[..., :1], 4, axis=3)
    corrected, matrices = motion_correct(still, voxel_mm=tuple(VOXEL), baseline=(0, 2))
    np.testing.assert_allclose(matrices, np.tile(np.eye(4), (4, 1, 1)), atol=1e-3)
    np.testing.assert_allclose(corrected, still, atol=2)


def test_gain_of_the_scanner_does_not_change_the_motion(moved_head):
    series, _ = moved_head
    found = [motion_correct(gain * series[..., :5], voxel_mm=tuple(VOXEL), baseline=(0, 3))[1] for gain in (1, 40)]
    np.testing.assert_allclose(found[0], found[1], atol=5e-3)


@pytest.mark.parametrize(
    ("shape", "baseline", "message"),
    [((8, 8, 8), (0, 1), "needs \\(x, y, z, time\\)"), ((8, 8, 8, 3), (2, 9), "does not lie in the 3 frames")],
)
def test_what_is_no_series_or_no_baseline_is_refused_in_one_line(shape, baseline, message):
    with pytest.raises(ValueError, match=message) as caught:
        motion_correct(np.ones(shape), voxel_mm=(2.0, 2.0, 2.0), baseline=baseline)
    assert "\n" not in str(caught.value)
