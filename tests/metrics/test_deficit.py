"""Measures that set a map's scale aside, on hand-made brains."""

import math

import numpy as np
import pytest
from scipy import stats

from tof2perf.metrics import deficit


@pytest.fixture
def brain(rng):
    """A box-shaped brain, a flow map and a deficit of a third on the low-index side."""
    mask = np.zeros((20, 12, 8), bool)
    mask[2:18, 1:11, 1:7] = True
    region = np.zeros(mask.shape, bool)
    region[4:8, 3:7, 2:5] = True
    half = rng.uniform(40, 60, (10, 12, 8))
    flow = np.where(mask, np.concatenate([half, half[::-1]]), 0)
    return mask, region, np.where(region, flow / 3, flow)


def test_a_map_that_is_right_but_for_its_scale_is_perfect_by_ratio_and_rank(brain):
    mask, region, flow = brain
    found = deficit.relative_metrics(flow, 1.3 * flow, mask=mask, region=region)
    assert found["spearman"] == pytest.approx(1) and found["ratio_error"] == pytest.approx(0, abs=1e-9)
    assert found["ratio_real"] == pytest.approx(1 / 3, rel=1e-5)
    assert found["deficit_mae"] == pytest.approx(0.3 * flow[region].mean())
    assert found["deficit_bias"] == pytest.approx(found["deficit_mae"])


def test_a_symmetric_map_has_the_ratio_one(brain):
    mask, region, flow = brain
    found = deficit.relative_metrics(flow, (flow + flow[::-1]) / 2, mask=mask, region=region)
    assert found["ratio"] == pytest.approx(1, rel=1e-5) and found["ratio_error"] == pytest.approx(2 / 3, rel=1e-4)


def test_a_constant_map_has_no_rank_correlation_but_a_ratio(brain):
    mask, region, flow = brain
    found = deficit.relative_metrics(flow, np.where(mask, 30.0, 0), mask=mask, region=region)
    assert math.isnan(found["spearman"]) and found["ratio"] == pytest.approx(1)


def test_without_a_deficit_or_on_both_sides_alike_there_is_no_ratio(brain):
    mask, region, flow = brain
    none = deficit.relative_metrics(flow, flow + 1, mask=mask, region=np.zeros_like(region))
    assert math.isnan(none["ratio"]) and math.isnan(none["deficit_mae"]) and none["spearman"] == pytest.approx(1)
    both = deficit.relative_metrics(flow, flow + 1, mask=mask, region=region | region[::-1])
    assert math.isnan(both["ratio_error"]) and both["deficit_mae"] == pytest.approx(1)
    with pytest.raises(ValueError, match="on one grid"):
        deficit.relative_metrics(flow, flow, mask=mask, region=region[1:])


def test_rank_correlation_equals_that_of_scipy_with_ties(rng):
    first, second = rng.integers(0, 6, (2, 300))
    assert deficit.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
