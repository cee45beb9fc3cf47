"""Measure how many voxels a second each deconvolution does on one thread: ``pytest tests/bench/bench_dsc.py``.

Goals on one core of a laptop: a million for bcsvd, twenty thousand for parametric. Nothing is asserted about time, so
this is no test.
"""

import numpy as np
import pytest
from helpers.curves import FRAMES, TE, TR, artery, tissue, with_noise
from threadpoolctl import threadpool_limits

from tof2perf.perfusion.arterial import find_aif
from tof2perf.perfusion.dsc import deconvolve, perfusion_maps


@pytest.fixture(scope="module")
def curves() -> np.ndarray:
    """100,000 noisy curves (SNR 50): CBF 10 to 70, MTT 2 to 12 s, delay 0 to 8 s, exponential residue."""
    rng, count = np.random.default_rng(7), 100_000
    clean = tissue(rng.uniform(10, 70, count), rng.uniform(2, 12, count), rng.uniform(0, 8, count))
    return with_noise(clean, rng, 50)


@pytest.fixture
def rate(benchmark, capsys):
    """Time a call of a function on a number of voxels, on one thread, and print voxels a second."""

    def measure(voxels: int, function, *arguments, **options):
        with threadpool_limits(1):
            result = benchmark.pedantic(function, arguments, options, rounds=5, warmup_rounds=1)
        benchmark.extra_info["voxels_per_second"] = voxels / benchmark.stats.stats.median
        with capsys.disabled():
            print(f"\n{benchmark.name}: {voxels / benchmark.stats.stats.median:,.0f} voxels/s")
        return result

    return measure


@pytest.mark.parametrize(("method", "count"), [("bcsvd", 100_000), ("osvd", 20_000), ("parametric", 20_000)])
def test_deconvolution(rate, curves, method, count):
    found = rate(count, deconvolve, curves[:count], artery(), TR, method=method)
    assert found.cbf.shape == (count,)


def test_arterial_input(rate, curves):
    curve, _ = rate(len(curves), find_aif, curves, tr=TR)
    assert curve.shape == (FRAMES,)


@pytest.mark.parametrize(("method", "count"), [("bcsvd", 100_000), ("parametric", 20_000)])
def test_series_to_maps(rate, curves, method, count):
    """All that is done with a series: concentration, deconvolution, five maps; the arterial input is given."""
    signal = np.exp(-TE * curves[:count]).reshape(count // 100, 10, 10, FRAMES)
    options = {"mask": np.ones(signal.shape[:3], dtype=bool), "aif": artery(), "method": method}
    assert len(rate(count, perfusion_maps, signal, TR, TE, **options)) == 5
