"""The pages for students run, small, in an empty folder, and their closing checks hold."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from tof2perf.dsc import METHODS
from tof2perf.execution import run_notebook

REPOSITORY = Path(__file__).resolve().parent.parent


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


def test_the_page_on_deconvolution_runs_without_results_and_leaves_its_table(run, tmp_path):
    book = run("perfusion", curves=800)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    table = pd.read_csv(tmp_path / "results" / "smoke" / "explore" / "perfusion_methods.csv")
    assert set(table.method) == set(METHODS) and set(table.noise) == {"none", "SNR 50"}
    assert (table.n == 800).all() and (table.source == "simulated curves, profile smoke").all()


def test_the_page_on_the_phantom_makes_its_own_patients_where_there_are_none(run, tmp_path):
    run("phantom", few=3)
    table = pd.read_csv(tmp_path / "results" / "smoke" / "explore" / "phantom.csv")
    assert set(table.cohort) == {"acute", "pegasus"} and table.reference.notna().all()
    assert table.source_of_data.str.contains("made for this page").all()
    assert not (tmp_path / "data").exists()
