"""The typed copy of the paper's numbers is complete and agrees with what the paper says in words."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tof2perf.maps import MAPS
from tof2perf.metrics import METRICS

PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "published"


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(PUBLISHED / "table1.csv")


def largest_sample_sd(mean, n):
    """Largest sample SD that n values in [0, 1] with this mean can have: all but one at an end of the range."""
    total = n * mean
    values = np.r_[np.ones(int(total)), total - int(total), np.zeros(n - int(total) - 1)]
    return values.std(ddof=1)


def test_table_1_holds_every_metric_of_every_model_once(table):
    assert len(table) == len(table.drop_duplicates(["cohort", "map", "metric"])) == 2 * len(MAPS) * len(METRICS)
    assert set(table["map"]) == set(MAPS) and set(table.metric) == set(METRICS)
    assert table.groupby("cohort").n.unique().map(list).to_dict() == {"acute": [20], "pegasus": [8]}


def test_the_ranges_the_paper_states_in_words_hold(table):
    # Results: acute SSIM > 0.87, PSNR > 28, MAE < 0.04, NRMSE < 0.4; PEGASUS SSIM > 0.83, PSNR > 23, NRMSE < 0.2.
    low, high = (table.groupby(["cohort", "metric"])["mean"].agg(end) for end in ("min", "max"))
    assert low["acute", "ssim"] > 0.87 and low["acute", "psnr"] > 28
    assert high["acute", "mae"] < 0.04 and high["acute", "nrmse"] < 0.4
    assert low["pegasus", "ssim"] > 0.83 and low["pegasus", "psnr"] > 23 and high["pegasus", "nrmse"] < 0.2


def test_one_published_standard_deviation_is_larger_than_any_patients_can_have(table):
    ssim = table[table.metric == "ssim"]
    impossible = ssim[[row.sd > largest_sample_sd(row["mean"], row.n) for _, row in ssim.iterrows()]]
    assert impossible[["cohort", "map"]].to_numpy().tolist() == [["pegasus", "mtt"]]
    assert largest_sample_sd(0.832, 8) == pytest.approx(0.357, abs=1e-3)


def test_published_dice_numbers_are_consistent():
    dice = json.loads((PUBLISHED / "dice.json").read_text(encoding="utf-8"))
    assert dice["analysed"] + dice["excluded"] == dice["patients"] == 20
    assert dice["quartile_25"] < dice["mean"] < dice["median"] < dice["quartile_75"]
    assert dice["figure4"] == sorted(dice["figure4"], reverse=True)
    assert "Kossen" in dice["source"]
