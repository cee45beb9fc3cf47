"""What all tests share: one smoke run, a seeded generator, a silent plotting backend, no figure left open."""

import fcntl
import os
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers.miniature import check_out, make

matplotlib.use("Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the smoke run; what waits for it comes last, longest files first: both workers then end together."""
    waiting = {item.path for item in items if "smoke_run" in item.fixturenames}
    first = {"test_smoke.py": 0, "test_slurm.py": 1, "test_chaos.py": 2}
    items.sort(key=lambda item: (item.path.name != "test_smoke.py", item.path in waiting, first.get(item.path.name, 3)))


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """A checkout after ``make paper PROFILE=smoke``, made once for all workers: copy it, never change it.

    What its notebooks read is noted in ``watched/`` beside it, see watch.py.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, finished = base / "smoke-run" / "tof2perf", base / "smoke-run-finished"
    with (base / "smoke-run-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
        if not finished.exists():
            observer = shutil.copy(
                Path(__file__).with_name("helpers") / "watch.py", check_out(folder) / "sitecustomize.py"
            )
            done = make(folder, "paper")
            Path(observer).unlink()
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            finished.touch()
    return folder


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
