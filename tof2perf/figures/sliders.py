"""Sliders under a drawing in JupyterLab; without a kernel the drawing at their first values."""

import os
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from IPython.display import display

STORED = "TOF2PERF_STORED"  # set where a notebook is executed to be kept (tof2perf.pipeline.execution)


def explore(draw: Callable[..., Any], **controls: widgets.ValueWidget) -> None:
    """Draw, and draw again whenever a control is moved.

    A widget needs a live kernel: in a stored notebook it would be an empty frame. There the drawing is made once, with
    the first values of the controls.

    Args:
        draw: called with the value of each control by name; shows its own figure.
        controls: ipywidgets, by the names of ``draw``'s arguments.
    """
    if os.environ.get(STORED):
        draw(**{name: control.value for name, control in controls.items()})
        return
    display(widgets.VBox([*controls.values(), widgets.interactive_output(draw, controls)]))
