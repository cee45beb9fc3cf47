"""Each step of the finished smoke run after real edits: whether it is stale, why, and what it waits for.

Who depends on a module or key is taken from what the notebooks were seen to load and read, not from the fingerprints.
"""

import json
from pathlib import Path

import pytest
from helpers.fresh import forget
from helpers.miniature import copy_run, planned_steps
from helpers.watch import read_watched

from tof2perf.pipeline.staleness import judge_all
from tof2perf.system.run import Run

PLAN = {step.name: step for step in planned_steps("paper", "", "smoke")}


@pytest.fixture(scope="module")
def copy(smoke_run, tmp_path_factory) -> Path:
    return copy_run(smoke_run, tmp_path_factory.mktemp("status") / "tof2perf")


@pytest.fixture(scope="module")
def watched(smoke_run) -> dict[str, dict[str, set[str]]]:
    return read_watched(smoke_run.parent / "watched")


def status(copy: Path) -> dict[str, tuple[str, str]]:
    """State and reason of every step of the paper, as ``make status`` prints them."""
    forget()
    verdicts = judge_all(PLAN.values(), Run("smoke", copy, repository=copy))
    return {name: (verdict.state, verdict.reason) for name, verdict in verdicts.items()}


def expected(stale: set[str], reason: str) -> dict[str, tuple[str, str]]:
    """These are stale for this reason, what comes after them waits, all else is fresh."""
    states: dict[str, tuple[str, str]] = {}
    for name, step in PLAN.items():
        busy = [other for other in step.after if states[other][0] != "fresh"]
        waiting = ("waiting", f"{', '.join(busy[:3])} must run first") if busy else ("fresh", "")
        states[name] = ("stale", reason) if name in stale else waiting
    return states


@pytest.fixture
def edit(copy):
    """Edit a file of the copy, and undo it afterwards: then everything is fresh again."""
    before = {}

    def change(name: str, old: str, new: str) -> None:
        path = copy / name
        before[path] = path.read_text()
        assert before[path].count(old) == 1, (name, old)
        path.write_text(before[path].replace(old, new))

    yield change
    for path, text in before.items():
        path.write_text(text)
    assert status(copy) == expected(set(), "")


@pytest.mark.parametrize("module", ["metrics.lesions", "cohorts.rating", "gan.weights", "phantom.oracle"])
def test_a_module_makes_those_steps_stale_that_load_it(copy, watched, edit, module):
    path = f"tof2perf/{module.replace('.', '/')}.py"
    first = (copy / path).read_text().splitlines()[0]
    edit(path, first + "\n", first + "\n# A line more.\n")
    stale = {name for name, seen in watched.items() if f"tof2perf.{module}" in seen["import"]}
    assert 0 < len(stale) < len(PLAN)
    assert status(copy) == expected(stale, f"module tof2perf.{module} changed")


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("evaluation.bootstrap", "bootstrap: 500", "bootstrap: 501"),
        ("epochs.pegasus", "pegasus: 1}", "pegasus: 2}"),
        ("cohorts.pegasus.echo_time_s", "echo_time_s: 0.029", "echo_time_s: 0.03"),
        ("evaluation.minimum_ml", "minimum_ml: 3.0", "minimum_ml: 4.0"),
    ],
)
def test_a_profile_key_makes_those_steps_stale_that_read_it(copy, watched, edit, key, old, new):
    """And those whose notebook hands on the section around it whole: they say so."""
    edit("notebooks/profiles/smoke.yaml", old, new)
    read = {name for name, seen in watched.items() if key in seen["key"]}
    now = status(copy)
    named = {name: reason for name, (state, reason) in now.items() if state == "stale"}
    assert read <= named.keys()
    sections = {f"profile key {key.rsplit('.', count)[0]} changed" for count in range(key.count(".") + 1)}
    assert set(named.values()) <= sections
    assert {name for name, reason in named.items() if reason == f"profile key {key} changed"} <= read
    states = {name: state for name, (state, _) in expected(set(named), "").items()}
    assert {name: state for name, (state, _) in now.items()} == states
    if not key.startswith("cohorts"):
        assert named.keys() == read


@pytest.mark.parametrize("name", ["07-figure2", "04-dice", "12-rating"])
def test_a_code_cell_makes_its_notebook_stale_and_prose_does_not(copy, edit, name):
    path = f"notebooks/{name}.ipynb"
    book = json.loads((copy / path).read_text())
    cell = next(cell for cell in reversed(book["cells"]) if cell["cell_type"] == "code")
    last = json.dumps(cell["source"] if isinstance(cell["source"], str) else cell["source"][-1], ensure_ascii=False)
    edit(path, last, last[:-1] + '\\n# A line more."')
    assert status(copy) == expected({name}, f"code cell {cell['id']} changed")
    text = (copy / path).read_text().replace("Purpose:", "Its purpose:").replace("\\n# A line more.", "")
    (copy / path).write_text(text)
    assert status(copy) == expected(set(), "") | {name: ("prose", "only prose changed")}


def test_the_lock_file_makes_all_stale(copy, edit):
    edit("requirements-lock.txt", "# Exact versions", "# The exact versions")
    assert status(copy) == expected(set(PLAN), "requirements-lock.txt changed")


def test_several_edits_are_all_named(copy, watched, edit):
    first = (copy / "tof2perf/cohorts/rating.py").read_text().splitlines()[0]
    edit("tof2perf/cohorts/rating.py", first + "\n", first + "\n# A line more.\n")
    edit("requirements-lock.txt", "# Exact versions", "# The exact versions")
    now = status(copy)
    for name, seen in watched.items():
        module = "module tof2perf.cohorts.rating changed; " if "tof2perf.cohorts.rating" in seen["import"] else ""
        assert now[name] == ("stale", f"{module}requirements-lock.txt changed")


def test_a_file_of_the_published_paper_makes_those_steps_stale_that_read_it(copy, watched, edit):
    """As any other input: a patient's file of own data is the same to the steps."""
    table = copy / "data" / "published" / "table1.csv"
    before = table.read_text()
    table.write_text(before + "\n")
    now = status(copy)
    stale = {name for name, step in PLAN.items() if "data/published" in step.inputs}
    assert now == expected(stale, "input data/published/table1.csv changed")
    assert stale >= {name for name, seen in watched.items() if "data/published/table1.csv" in seen["read"]} != set()
    table.write_text(before)
