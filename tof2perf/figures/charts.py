"""Colours, marks and empty sheets for charts over patients. The notebooks draw the charts themselves."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tof2perf.figures.panels import GENERATED, INCH

# Okabe and Ito's colours, safe for the colour-blind; grey for the mean map, which never looks at the patient.
COLOURS = {"gan": GENERATED, "mean-map": "0.6", "oracle": "#009E73"}
MARKERS = {"gan": "o", "mean-map": "s", "oracle": "^"}
EDGE: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.3}


def sheet(rows: int, columns: int, *, width_mm: float, height_mm: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes (rows, columns), and leave 5 mm at the foot for the source.

    Args:
        rows, columns: number of axes.
        width_mm, height_mm: size of the figure.
        shared: ``sharex`` and ``sharey``, as for ``plt.subplots``.
    """
    layout = ConstrainedLayoutEngine(rect=(0, 5 / height_mm, 1, 1 - 5 / height_mm))
    size = (width_mm / INCH, height_mm / INCH)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **shared)
