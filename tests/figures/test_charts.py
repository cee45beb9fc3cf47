"""Charts of the figure notebooks, drawn on made-up tables: every patient, every model, every predictor."""

import math

import pandas as pd
import pytest
from helpers.cells import run_cells

from tof2perf.figures import panels
from tof2perf.maps import MAPS
from tof2perf.metrics.similarity import METRICS

LABEL = "simulated cohort, profile smoke"


def test_distributions_show_every_patient_of_every_model(rng):
    rows = [
        {"cohort": cohort, "map": name, "predictor": predictor, **dict.fromkeys(METRICS, rng.random())}
        for cohort in ("acute", "pegasus")
        for name in MAPS
        for predictor in panels.PREDICTORS
        for _ in range(3)
    ]
    draw = run_cells("11-distributions", "chart")["distributions"]
    figure = draw(pd.DataFrame(rows), label=LABEL, physical=True)
    frames = figure.axes
    assert len(frames) == len(METRICS) * len(MAPS)
    for axis in frames:
        dots = sum(len(found.get_offsets()) for found in axis.collections)
        assert dots == 2 * 3 * 3
    assert "MAE (ml/100 g/min)" in [axis.get_ylabel() for axis in frames]


def ceiling():
    rows = [
        {"cohort": cohort, "map": name, "metric": metric, "position": 0.5, "low": 0.2, "high": 0.7}
        for cohort in ("acute", "pegasus")
        for name in MAPS
        for metric in ("mae", "dice")
    ]
    rows[0] |= {"position": math.nan, "low": math.nan, "high": math.nan}
    rows[2] |= {"position": -4.0, "low": -9.0, "high": -2.0}
    return pd.DataFrame(rows)


def test_positions_are_drawn_where_there_are_any():
    def draw(table, label):
        return run_cells("13-baselines", "figure", ceiling=table, label=label)

    drawn = draw(ceiling(), LABEL)
    figure = drawn["figure"]
    marks = [sum(line.get_marker() == "o" for line in axis.lines) for axis in figure.axes]
    assert marks == [8, 10]
    beyond = [line for line in figure.axes[0].lines if line.get_marker() == "<"]
    assert [line.get_xdata()[0] for line in beyond] == [-drawn["edge"]]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "acute Tmax"
    assert draw(ceiling().head(0), "own data x, profile smoke")["figure"].axes  # own data have no oracle


def test_bland_altman_draws_a_dot_a_patient_and_three_lines_a_predictor():
    volumes = pd.DataFrame({"predictor": ["gan", "gan", "oracle"], "real_ml": [1.0, 2, 3], "generated_ml": [2.0, 2, 5]})
    agreement = pd.DataFrame(
        {"predictor": ["gan", "oracle"], "bias_ml": [0.5, 2], "lower_ml": [-1, None], "upper_ml": [2, None]}
    )
    variables = {"analysed": volumes, "agreement": agreement.set_index("predictor"), "label": LABEL}
    figure = run_cells("14-lesions", "volumes-figure", **variables)["volumes"]
    assert [len(axis.lines) for axis in figure.axes] == [1 + 3, 1 + 1]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1.5, 1], [2, 0]]
    assert figure.get_figwidth() * 25.4 == pytest.approx(panels.SINGLE_MM)


def test_threshold_curves_show_the_real_volume_once_and_each_predictor():
    rows = [
        {"predictor": name, "threshold_s": t, "real_ml": 20 - t, "generated_ml": 15 - t, "dice_mean": 0.5}
        for name in ("gan", "mean-map")
        for t in (4.0, 6.0, 8.0, 10.0)
    ]
    variables = {"table": pd.DataFrame(rows), "measured": "from DSC", "label": LABEL}
    figure = run_cells("14-lesions", "thresholds-figure", **variables)["curves"]
    assert [len(axis.lines) for axis in figure.axes] == [3, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["from DSC", "GAN", "training mean map"]
