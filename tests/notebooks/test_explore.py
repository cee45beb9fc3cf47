"""The pages for students run, small, in an empty folder, and their closing checks hold."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from tof2perf.perfusion.dsc import METHODS
from tof2perf.pipeline.execution import run_notebook

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute an explore notebook with the smoke profile and parameters; returns it, executed."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def execute(name: str, **parameters) -> nbformat.NotebookNode:
        source, target = REPOSITORY / "notebooks" / "explore" / f"{name}.ipynb", tmp_path / f"{name}.ipynb"
        given = {"profile": "smoke", "root": str(tmp_path), **parameters}
        run_notebook(source, target, parameters=given, failed=tmp_path / "failed" / f"{name}.ipynb")
        return nbformat.read(target, as_version=4)

    return execute


def pictures(book: nbformat.NotebookNode) -> int:
    """How many drawings an executed notebook shows; there must be no widget, which needs a kernel to be seen."""
    shown = [output.get("data", {}) for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [data for data in shown if "application/vnd.jupyter.widget-view+json" in data]
    return sum("image/png" in data for data in shown)


def test_the_page_on_deconvolution_runs_without_results_and_leaves_its_table(run, tmp_path):
    book = run("perfusion", curves=800)
    assert pictures(book) == 8
    table = pd.read_csv(tmp_path / "results" / "smoke" / "explore" / "perfusion_methods.csv")
    assert set(table.method) == set(METHODS) and set(table.noise) == {"none", "SNR 50"}
    assert (table.n == 800).all() and (table.source == "simulated curves, profile smoke").all()


@pytest.mark.slow
def test_the_page_on_the_phantom_makes_its_own_patients_where_there_are_none(run, tmp_path):
    run("phantom", few=3)
    table = pd.read_csv(tmp_path / "results" / "smoke" / "explore" / "phantom.csv")
    assert set(table.cohort) == {"acute", "pegasus"} and table.reference.notna().all()
    assert table.source_of_data.str.contains("made for this page").all()
    assert not (tmp_path / "data").exists()


def test_the_page_that_builds_a_patient_blocks_arteries_and_leaves_its_volumes(run, tmp_path):
    assert pictures(run("patient")) == 3
    table = pd.read_csv(tmp_path / "results" / "smoke" / "explore" / "patient.csv").set_index("story")
    assert table.true_ml["healthy"] == 0 < table.true_ml["M2"] < table.true_ml["M1, poor collaterals"]
    assert (table.source == "simulated patient, profile smoke").all()


@pytest.mark.parametrize(
    ("name", "drawings"),
    [pytest.param("gan", 4, marks=pytest.mark.slow), ("browse", 3), pytest.param("metrics", 4, marks=pytest.mark.slow)],
)
def test_pages_on_results_make_themselves_an_example_where_there_are_none(run, tmp_path, name, drawings):
    book = run(name)
    assert pictures(book) == drawings
    colophon = book.cells[-1].outputs[0]["data"]["text/plain"]
    assert "data: example volumes, no patients" in colophon
    assert not (tmp_path / "data").exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["perfusion", "phantom", "patient", "gan", "metrics", "browse"])
def test_a_page_for_students_ends_with_questions(name):
    book = nbformat.read(REPOSITORY / "notebooks" / "explore" / f"{name}.ipynb", as_version=4)
    (questions,) = [cell.source for cell in book.cells if cell.id == "questions"]
    assert questions.startswith("## Questions") and questions.count("?") >= 4
    assert [cell.id for cell in book.cells[-3:]] == ["questions", "checks", "colophon"]
