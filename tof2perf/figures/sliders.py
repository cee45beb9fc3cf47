"""Sliders under a drawing in JupyterLab; on a page that is read without a kernel, the drawing as they first stand."""

import os
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from IPython.display import display

STORED = "TOF2PERF_STORED"  # set where a notebook is executed to be kept (tof2perf.pipeline.execution)


def explore(draw: Callable[..., Any], **controls: widgets.ValueWidget) -> None:
    """Draw, and draw again whenever a control is moved.

    A widget needs a live kernel: in a stored notebook it would be an empty frame. There the drawing is made once, with
    the values that the controls begin with, so that the page shows what the sliders would move.

    Args:
        draw: called with the value of each control by name; shows its own figure.
        controls: ipywidgets, by the names of ``draw``'s arguments.
    """
    if os.environ.get(STORED):
        draw(**{name: control.value for name, control in controls.items()})
        return
    display(widgets.VBox([*controls.values(), widgets.interactive_output(draw, controls)]))
