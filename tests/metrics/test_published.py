"""The typed copy of the paper's numbers is complete and agrees with what the paper says in words."""

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.cells import run_cells

from tof2perf.maps import MAPS
from tof2perf.metrics.similarity import METRICS

PUBLISHED = Path(__file__).resolve().parents[2] / "data" / "published"


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(PUBLISHED / "table1.csv")


def test_table_1_holds_every_metric_of_every_model_once(table):
    assert len(table) == len(table.drop_duplicates(["cohort", "map", "metric"])) == 2 * len(MAPS) * len(METRICS)
    assert set(table["map"]) == set(MAPS) and set(table.metric) == set(METRICS)
    assert table.groupby("cohort").n.unique().map(list).to_dict() == {"acute": [20], "pegasus": [8]}


def test_the_ranges_the_paper_states_in_words_hold(table):
    claims = json.loads((PUBLISHED / "claims.json").read_text(encoding="utf-8"))
    low, high = (table.groupby(["cohort", "metric"])["mean"].agg(end) for end in ("min", "max"))
    assert len(claims["bounds"]) == 2 * len(METRICS)
    for claim in claims["bounds"]:
        key = claim["cohort"], claim["metric"]
        assert low[key] > claim["value"] if claim["relation"] == ">" else high[key] < claim["value"]
    for claim in claims["ranges"]:
        key = claim["cohort"], claim["metric"]
        assert claim["low"] - 0.005 <= low[key] and high[key] <= claim["high"] + 0.005  # rounded to two decimals


def test_one_published_standard_deviation_is_larger_than_any_patients_can_have(table):
    largest_sd = run_cells("explore/metrics", "sd-bound")["largest_sd"]
    ssim = table[table.metric == "ssim"]
    impossible = ssim[[row.sd > largest_sd(row["mean"], row.n) for _, row in ssim.iterrows()]]
    assert impossible[["cohort", "map"]].to_numpy().tolist() == [["pegasus", "mtt"]]
    assert largest_sd(0.832, 8) == pytest.approx(0.357, abs=1e-3)


def test_published_dice_numbers_are_consistent():
    dice = json.loads((PUBLISHED / "dice.json").read_text(encoding="utf-8"))
    assert dice["analysed"] + dice["excluded"] == dice["patients"] == 20
    assert dice["quartile_25"] < dice["mean"] < dice["median"] < dice["quartile_75"]
    assert dice["figure4"] == sorted(dice["figure4"], reverse=True)
    assert "Kossen" in dice["source"]
