"""Four rows of the matrix of ``make chaos``, one for each way in which a run is cut short."""

import subprocess
import tempfile
from pathlib import Path

import pytest
from helpers import faults
from tools import chaos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="left-over processes are sought in /proc"),
]
ROWS = (
    ("kill -9 outer make", "05-table1"),
    ("kill -9 papermill", "12-rating"),
    ("truncated executed notebook", "07-figure2"),
    ("disk full", "09-figure4"),
)


@pytest.fixture
def home():
    """A folder for a copy of the run; its name is short because names of sockets are."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        yield Path(folder) / "row"


@pytest.mark.parametrize(("fault", "step"), ROWS)
def test_the_next_make_ends_with_the_bytes_of_an_undisturbed_run_and_nothing_is_left(fault, step, smoke_run, home):
    (scenario,) = [row for row in chaos.SCENARIOS if row.fault == fault and row.moment.startswith(step)]
    row = chaos.play(scenario, smoke_run, home)
    assert not row.problem and not row.unavailable
    assert row.reran == (step,)


def test_a_row_fails_if_a_result_differs_or_a_file_or_a_process_is_left(smoke_run, home, monkeypatch):
    def spoil(copy):
        (copy.results / "tables" / "dice-of-another-run.csv").write_text("1")
        (copy.results / "tables" / ".table1.csv.abc.part").write_text("half")
        subprocess.Popen(["sleep", "600"], cwd=copy.folder)
        return "done"

    monkeypatch.setattr(faults, "PATIENCE_S", 0.5)
    row = chaos.play(chaos.Scenario("spoiled", "tables", spoil, said="said"), smoke_run, home)
    for problem in ("make said 'done'", "differs: results/smoke/tables/dice-of", ".table1.csv.abc", "process sleep"):
        assert problem in row.problem
    assert "FAILED" in chaos.table([row])
