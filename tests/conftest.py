"""What all tests share: a seeded generator, a silent plotting backend, no figure left open."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The smoke run takes longest: begin with it, while another worker does the rest."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives every test the same numbers, whatever ran before it."""
    return np.random.default_rng(20200420)


@pytest.fixture(autouse=True)
def figures_are_closed():
    """Close what a test has drawn, so that figures never pile up."""
    yield
    import matplotlib.pyplot

    matplotlib.pyplot.close("all")
