"""Run some cells of a notebook on made-up data, to test the figure that they draw."""

from pathlib import Path
from typing import Any

from tof2perf.pipeline.fingerprints import read_notebook

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def run_cells(notebook: str, *names: str, **variables: Any) -> dict[str, Any]:
    """Run a notebook's imports and the named cells with some variables set; return all variables afterwards."""
    sources = {cell.name: cell.source for cell in read_notebook(NOTEBOOKS / f"{notebook}.ipynb").code}
    for name in ("imports", *names):
        exec(compile(sources[name], f"{notebook}, cell {name}", "exec"), variables)
    return variables
