"""Charts over patients: distributions of metrics, places between floor and ceiling, lesion volumes and thresholds."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from tof2perf.figures.panels import DOUBLE_MM, GENERATED, INCH, SINGLE_MM, sign
from tof2perf.maps import MAPS
from tof2perf.metrics.baselines import NAMES

# Okabe and Ito's colours, safe for the colour-blind; grey for what never looks at the patient.
COLOURS = {"gan": GENERATED, "mean-map": "0.6", "oracle": "#009E73"}
EDGE: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.3}
WIDEST = 1.5  # positions between -1.5 and 1.5 are drawn in their place
MARKERS = {"gan": "o", "mean-map": "s", "oracle": "^"}
MEASURES = {
    "ssim": "SSIM, brain",
    "mae": "MAE, brain",
    "spearman": "rank correlation",
    "ratio_error": "ratio to other side",
    "deficit_mae": "error in the deficit",
    "dice": "Dice",
}


def distributions(metrics: pd.DataFrame, *, label: str, physical: bool) -> Figure:
    """Draw every patient's metrics: a row a metric, a column a map, GAN beside mean map and oracle in each cohort.

    Args:
        metrics: columns ``cohort``, ``map``, ``predictor`` (of :data:`COLOURS`) and the four metrics; one row a
            patient, of one convention.
        label: source and profile.
        physical: MAE and PSNR are in physical units (``brain``), not in the [-1, 1] scale (``paper``).
    """
    names = {"ssim": "SSIM", "psnr": "PSNR", "mae": "MAE", "nrmse": "NRMSE"}
    colours = {name: colour for name, colour in COLOURS.items() if name in set(metrics.predictor)}
    maps = [entry for entry in MAPS.values() if entry.name in set(metrics["map"])]
    figure, frames = _sheet(len(names), len(maps), width_mm=DOUBLE_MM, height_mm=170, sharex=True)
    for (i, j), axis in np.ndenumerate(frames):
        metric, entry = list(names)[i], maps[j]
        shown = {"data": metrics[metrics["map"] == entry.name], "x": "cohort", "y": metric, "hue": "predictor"}
        shown |= {"order": list(metrics.cohort.unique()), "hue_order": list(colours), "palette": colours, "ax": axis}
        seaborn.boxplot(**shown, width=0.7, gap=0.15, fliersize=0, linewidth=0.6, saturation=1, legend=False)
        seaborn.stripplot(**shown, dodge=True, size=2, jitter=False, linewidth=0.3, edgecolor="black", legend=False)
        unit = {"psnr": " (dB)", "mae": f" ({entry.unit})" if physical else ""}.get(metric, "")
        axis.set(xlabel="", ylabel=names[metric] + unit if j == 0 or (metric == "mae" and physical) else "")
        axis.set_title(entry.label if i == 0 else "")
        seaborn.despine(ax=axis)
    handles = [Patch(facecolor=colour, edgecolor="black", linewidth=0.4) for colour in colours.values()]
    figure.legend(handles, [NAMES[name] for name in colours], loc="outside upper center", ncols=3, frameon=False)
    sign(figure, label)
    return figure


def positions(ceiling: pd.DataFrame, *, label: str) -> Figure:
    """Draw where the GAN stands between mean map (0) and oracle (1): one row a model, one column a measure.

    Args:
        ceiling: columns ``cohort``, ``map``, ``metric``, ``position``, ``low``, ``high``; nan has no mark.
        label: source and profile.
    """
    models = list(ceiling[["cohort", "map"]].drop_duplicates().itertuples(index=False, name=None))
    measures = [measure for measure in MEASURES if measure in set(ceiling.metric)] or ["mae"]
    height_mm = 24 + 5 * max(len(models), 2)
    figure, frames = _sheet(1, len(measures), width_mm=DOUBLE_MM, height_mm=height_mm, sharey=True)
    for axis, measure in zip(frames[0], measures, strict=True):
        found = ceiling[ceiling.metric == measure].set_index(["cohort", "map"])
        for row, model in enumerate(models):
            if model in found.index and np.isfinite(found.position[model]):
                place, low, high = found.loc[model, ["position", "low", "high"]]
                mark = "<" if place < -WIDEST else ">" if place > WIDEST else "o"  # an arrow: beyond the frame
                axis.plot([low, high], [row, row], color=GENERATED, linewidth=1.2)
                axis.plot(np.clip(place, -WIDEST, WIDEST), row, mark, color=GENERATED, markersize=3.5, **EDGE)
        axis.axvline(0, color="0.6", linewidth=0.8)
        axis.axvline(1, color=COLOURS["oracle"], linewidth=0.8)
        axis.set(
            title=MEASURES[measure],
            xlim=(-WIDEST - 0.1, WIDEST + 0.1),
            xticks=[-1, 0, 1],
            ylim=(max(len(models), 1) - 0.5, -0.5),
        )
        seaborn.despine(ax=axis)
    frames[0, 0].set_yticks(range(len(models)), [f"{cohort} {MAPS[name].label}" for cohort, name in models])
    ends = (axis.lines[-2], axis.lines[-1])
    figure.legend(ends, ["training mean map (0)", "oracle (1)"], loc="outside upper center", ncols=2, frameon=False)
    sign(figure, label)
    return figure


def bland_altman(volumes: pd.DataFrame, agreement: pd.DataFrame, *, label: str) -> Figure:
    """Draw generated minus real lesion volume against their mean, one column a predictor; one journal column wide.

    Args:
        volumes: columns ``predictor`` (of :data:`COLOURS`), ``real_ml``, ``generated_ml``; one row a patient.
        agreement: columns ``predictor``, ``bias_ml``, ``lower_ml``, ``upper_ml``; nan has no line.
        label: source and profile.
    """
    shown = [name for name in COLOURS if name in set(volumes.predictor)]
    figure, frames = _sheet(1, max(len(shown), 1), width_mm=SINGLE_MM, height_mm=60, sharey=True, sharex=True)
    for axis, name in zip(frames[0], shown, strict=False):
        found = volumes[volumes.predictor == name]
        middle, difference = (found.real_ml + found.generated_ml) / 2, found.generated_ml - found.real_ml
        axis.plot(middle, difference, MARKERS[name], color=COLOURS[name], markersize=3, **EDGE)
        limits = agreement.set_index("predictor").loc[name, ["bias_ml", "lower_ml", "upper_ml"]].astype(float)
        for value, style in zip(limits, ("solid", "dashed", "dashed"), strict=True):
            if np.isfinite(value):
                axis.axhline(value, color="black", linewidth=0.7, linestyle=style)
                axis.annotate(
                    f"{value:+.0f}",
                    (0.99, value),
                    xycoords=("axes fraction", "data"),
                    fontsize=5.5,
                    ha="right",
                    va="bottom",
                )
        axis.set_title(NAMES[name], fontsize=6)
        seaborn.despine(ax=axis)
    frames[0, 0].set_ylabel("generated - real (ml)")
    frames[0, len(shown) // 2].set_xlabel("mean of both volumes (ml)")
    sign(figure, label)
    return figure


def threshold_curves(
    thresholds: pd.DataFrame, *, label: str, predictors: Sequence[str] = tuple(COLOURS), measured: str = "from DSC"
) -> Figure:
    """Draw mean lesion volume and Dice against the Tmax threshold; one journal column wide.

    Args:
        thresholds: columns ``predictor``, ``threshold_s``, ``real_ml``, ``generated_ml``, ``dice_mean``.
        label: source and profile.
        predictors: those to draw, where the table has them.
        measured: name of the real maps.
    """
    figure, frames = _sheet(1, 2, width_mm=SINGLE_MM, height_mm=60, sharex=True)
    left, right = frames[0]
    real = thresholds.drop_duplicates("threshold_s")
    left.plot(real.threshold_s, real.real_ml, color="black", marker=".", label=measured)
    for name in predictors:
        found = thresholds[thresholds.predictor == name]
        if len(found):
            style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 3}
            left.plot(found.threshold_s, found.generated_ml, **style, label=NAMES[name])
            right.plot(found.threshold_s, found.dice_mean, **style)
    left.set(ylabel="mean volume (ml)", ylim=(0, None), xticks=real.threshold_s)
    right.set(ylabel="mean Dice", ylim=(0, 1))
    for axis in frames[0]:
        axis.set_xlabel("Tmax above (s)")
        seaborn.despine(ax=axis)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    sign(figure, label)
    return figure


def _sheet(rows: int, columns: int, *, width_mm: float, height_mm: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A sheet of axes (rows, columns) that leaves 5 mm at the foot to the source."""
    layout = ConstrainedLayoutEngine(rect=(0, 5 / height_mm, 1, 1 - 5 / height_mm))
    size = (width_mm / INCH, height_mm / INCH)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **shared)
