"""How long a whole volume takes in both conventions on one thread: ``pytest tests/bench/bench_metrics.py``, not a test.

Goal: 256 x 256 x 128 voxels, four metrics, both conventions, in ten seconds on one core. No time is asserted.
"""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tof2perf.metrics.similarity import METRICS, both_conventions
from tof2perf.volumes.hemispheres import mirror

SHAPE = (256, 256, 128)


@pytest.fixture(scope="module")
def pair():
    """A noisy map, a noisier one, and an ellipsoid that fills a third of the volume as brain."""
    rng = np.random.default_rng(7)
    real = rng.uniform(0, 20, SHAPE).astype(np.float32)
    grid = np.indices(SHAPE, sparse=True)
    mask = sum(((grid[axis] - size / 2) / (0.42 * size)) ** 2 for axis, size in enumerate(SHAPE)) < 1
    return real, real + rng.normal(0, 1, SHAPE).astype(np.float32), mask


@pytest.fixture
def timed(benchmark, capsys):
    """Time a call on one thread and print it."""

    def measure(function, *arguments, **options):
        with threadpool_limits(1):
            result = benchmark.pedantic(function, arguments, options, rounds=3, warmup_rounds=1)
        with capsys.disabled():
            print(f"\n{benchmark.name}: {benchmark.stats.stats.median:.2f} s")
        return result

    return measure


def test_both_conventions(timed, pair):
    real, generated, mask = pair
    found = timed(both_conventions, real, generated, mask=mask, bounds=(0.0, 20.0))
    assert all(set(scores) == set(METRICS) for scores in found.values())


def test_mirror(timed, pair):
    assert timed(mirror, pair[0], pair[2]).shape == SHAPE
