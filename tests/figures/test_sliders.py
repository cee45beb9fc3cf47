"""Sliders draw when they are moved, and once where the page will be read without a kernel."""

import ipywidgets as widgets
import pytest

from tof2perf.figures import sliders


@pytest.fixture
def shown(monkeypatch) -> list:
    """What would be displayed in JupyterLab."""
    found: list = []
    monkeypatch.setattr(sliders, "display", found.append)
    return found


def test_moving_a_slider_draws_again(monkeypatch, shown):
    monkeypatch.delenv(sliders.STORED, raising=False)
    drawn = []
    delay = widgets.FloatSlider(value=2, min=0, max=8)
    sliders.explore(lambda delay: drawn.append(delay), delay=delay)
    delay.value = 5
    assert drawn == [2, 5]
    (box,) = shown
    assert box.children[0] is delay


def test_a_stored_page_gets_the_drawing_and_no_widget(monkeypatch, shown):
    monkeypatch.setenv(sliders.STORED, "1")
    drawn = []
    sliders.explore(
        lambda side, delay: drawn.append((side, delay)),
        delay=widgets.FloatSlider(value=2, min=0, max=8),
        side=widgets.Dropdown(options=["left", "right"], value="right"),
    )
    assert drawn == [("right", 2)] and shown == []
