"""Comparisons of predictors on the same patients, against their definitions and by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tof2perf.metrics import statistics


def test_paired_difference_is_antisymmetric(rng):
    first, second = rng.normal(1, 1, 15), rng.normal(0, 1, 15)
    forward, backward = (
        statistics.paired_difference(a, b, np.random.default_rng(7), resamples=500)
        for a, b in ((first, second), (second, first))
    )
    assert forward["difference"] == pytest.approx(-backward["difference"])
    assert (forward["low"], forward["high"]) == pytest.approx((-backward["high"], -backward["low"]))
    assert forward["p"] == pytest.approx(backward["p"])
    assert forward["p"] == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert forward["low"] < forward["difference"] < forward["high"]


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one(rng):
    values = rng.normal(3, 2, 400)
    low, high = statistics.bootstrap_interval(values, rng, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_equal_predictors_differ_by_nothing(rng):
    values = rng.random(8)
    found = statistics.paired_difference(values, values, rng, resamples=100)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_one_patient_has_a_difference_but_no_interval(rng):
    found = statistics.paired_difference([2.0], [1.0], rng)
    assert found["difference"] == 1
    assert math.isnan(found["low"]) and math.isnan(found["p"])


def test_pairs_that_do_not_match_are_refused(rng):
    with pytest.raises(ValueError, match="not pairs"):
        statistics.paired_difference([1.0, 2.0], [1.0], rng)
    with pytest.raises(ValueError, match="not finite"):
        statistics.paired_difference([1.0, math.inf], [1.0, 2.0], rng)


@pytest.mark.parametrize(
    ("low", "high", "higher", "word"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "not distinguishable"),
        (0.0, 0.1, True, "not distinguishable"),
    ],
)
def test_a_verdict_is_spoken_only_where_the_interval_excludes_zero(low, high, higher, word):
    assert statistics.verdict(low, high, patients=8, higher_is_better=higher) == word
    assert statistics.verdict(low, high, patients=5, higher_is_better=higher) == "too few patients"


def test_holm_never_lowers_a_p_value_and_keeps_their_order(rng):
    p = rng.uniform(0, 0.2, 10)
    corrected = statistics.holm(p)
    assert (corrected >= p).all() and (corrected <= 1).all()
    assert np.array_equal(np.argsort(corrected, kind="stable")[0], np.argmin(p))
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert corrected.min() == pytest.approx(min(1, 10 * p.min()))


def test_holm_golden_values_and_missing_tests():
    # Worked by hand from the step-down rule: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, each at least its predecessor.
    assert statistics.holm([0.04, 0.01, math.nan, 0.03, 0.02]) == pytest.approx(
        [0.06, 0.04, math.nan, 0.06, 0.06], nan_ok=True
    )


def scores(rng, patients=8, models=("tmax", "cbf")):
    """GAN beside a baseline that is worse by about 1, of two models, in one convention."""
    rows = []
    for name in models:
        for patient in range(patients):
            level = rng.normal(10, 2)
            for predictor, worse in (("gan", 0.0), ("mean-map", 1.0)):
                value = level + worse + rng.normal(0, 0.1)
                rows.append({"participant_id": f"sub-{patient}", "predictor": predictor, "cohort": "acute"})
                rows[-1] |= {"map": name, "convention": "brain", "mae": value, "psnr": -value}
    return pd.DataFrame(rows)


def test_every_model_and_metric_is_compared_with_every_baseline_once(rng):
    found = statistics.compare_with_baselines(scores(rng), {"mae": False, "psnr": True}, rng, resamples=300)
    assert len(found) == len(found.drop_duplicates(["map", "metric", "against"])) == 4
    assert set(found.gan_is) == {"better"} and (found.n == 8).all()
    assert found.set_index(["map", "metric"]).difference.xs("mae", level="metric").between(-1.2, -0.8).all()
    assert (found.p_holm == np.minimum(2 * found.p, 1)).all()  # all patients agree, so both models have the same p


def test_what_is_no_measurement_is_left_out_and_counted(rng):
    table = scores(rng, models=("tmax",))
    table.loc[(table.predictor == "gan") & (table.participant_id == "sub-0"), "psnr"] = math.inf
    table.loc[table.predictor == "mean-map", "mae"] = math.nan
    found = statistics.compare_with_baselines(table, {"mae": False, "psnr": True}, rng, resamples=100)
    found = found.set_index("metric")
    assert found.n.to_dict() == {"mae": 0, "psnr": 7}
    assert found.gan_is["mae"] == "too few patients" and math.isnan(found.p_holm["mae"])


def test_a_position_is_0_at_the_floor_and_1_at_the_ceiling_whichever_way_is_good(rng):
    floor, ceiling = rng.normal(5, 0.5, 20), rng.normal(2, 0.5, 20)
    for sign in (1, -1):
        for found, place in ((floor, 0), (ceiling, 1), ((floor + ceiling) / 2, 0.5)):
            given = statistics.position(sign * floor, sign * found, sign * ceiling, rng, resamples=500)
            assert given["position"] == pytest.approx(place) and given["n"] == 20
            assert given["low"] - 1e-9 <= place <= given["high"] + 1e-9
    assert statistics.position(floor, floor + 3, ceiling, rng, resamples=500)["position"] < 0


def test_without_a_distance_between_floor_and_ceiling_there_is_no_position(rng):
    values = rng.normal(0, 1, (3, 12))
    assert math.isnan(statistics.position(values[0], values[1], values[0], rng, resamples=200)["position"])
    assert math.isnan(statistics.position([1.0], [2.0], [3.0], rng)["position"])
    holes = statistics.position([1.0, 1.1, math.nan], [1.5, 1.6, 1.0], [2.0, 2.2, 1.0], rng, resamples=200)
    assert holes["n"] == 2
