"""Run one notebook so that it either ends well and reproducibly, or fails with one clear line.

papermill fills in the parameters, nbclient executes the cells in a kernel that sees no configuration of the user's.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# jsonschema, which checks a notebook's form, would compile a grammar of web addresses when it finds this package: 2.6 s
# of processor time in every step. No notebook is checked for web addresses.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from tof2perf.pipeline.fingerprints import check_parameters, read_notebook
from tof2perf.system.files import WriteError, digest, replacing

ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
LONGEST = 80  # characters of the folder that holds them: a socket's path ends after 107
IOPUB_TIMEOUT_S = 120  # a busy machine may take long to hand over a cell's last output
# Variables that set up Python, Jupyter, IPython, Matplotlib and progress bars: a kernel gets those that are kept alone.
SETTINGS = ("PYTHON", "IPYTHON", "JUPYTER", "MPL", "MATPLOTLIB", "TQDM_")
KEPT = ("PYTHONPATH", "PYTHONHASHSEED", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE", "MPLCONFIGDIR")


class ExecutionError(RuntimeError):
    """A notebook that did not run to its end; the message is one line, ``cell`` where it stopped."""

    def __init__(self, message: str, cell: str):
        super().__init__(message)
        self.cell = cell


@contextlib.contextmanager
def private_folder(target: Path) -> Iterator[Path]:
    """Make a folder for the sockets and configuration of the kernel that executes ``target``.

    Its name begins with a hash of the target's path, by which the folder of a killed run is found and removed.
    """
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST:
        base = Path("/tmp")
    prefix = f"t2p-{digest(str(target.resolve()))[:8]}-"
    for left in base.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=base, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def kernel_environment(private: Path) -> dict[str, str]:
    """Variables of a kernel: those of this process without any that set up a library as the user likes it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS) or name in KEPT}
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        kept["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data" / "matplotlibrc")  # its own defaults
    return kept | {
        "IPYTHONDIR": str(private),
        "JUPYTER_CONFIG_DIR": str(private),
        # Text bars in place of widgets: a stored notebook must be readable without a kernel. tqdm chooses them when a
        # variable's name begins so; there is no other switch. Without a clock, two runs print the same.
        "SPYDER_TEXT_BARS": "1",
        "TQDM_BAR_FORMAT": "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
        "TOF2PERF_STORED": "1",  # drawings in place of sliders: tof2perf.figures.sliders
    }


def _kernel(private: Path) -> AsyncKernelManager:
    """A kernel of the running interpreter; many at once would race for TCP ports, so it uses sockets of its own."""
    kernel = AsyncKernelManager(transport="ipc", ip=f"{private}/k", connection_file=f"{private}/kernel.json")
    argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=50", "-f", "{connection_file}"]
    kernel._kernel_spec = KernelSpec(argv=argv, display_name="Python 3", language="python")
    return kernel


class _Client(NotebookClient):
    """Hands every line of a progress bar to ``on_progress``."""

    on_progress: Callable[[str], None] | None = None

    def process_message(self, *args: Any, **options: Any) -> Any:
        output = super().process_message(*args, **options)
        if self.on_progress and output and output.output_type == "stream" and output.name == "stderr":
            last = [line for line in re.split(r"[\r\n]", output.text) if line.strip()][-1:]
            if last and "%|" in last[0]:
                self.on_progress(last[0].strip())
        return output


def run_notebook(
    source: Path,
    target: Path,
    *,
    parameters: dict[str, Any],
    failed: Path,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Execute a notebook in its own folder and store it, under ``target`` if it ended well, else under ``failed``.

    Args:
        source: the notebook as stored in the repository.
        target: where the executed notebook goes; moved there in one piece.
        parameters: values for its ``parameters`` cell.
        failed: where it goes instead if a cell raises or the notebook ends early.
        on_progress: called with the latest line of a progress bar.

    Raises:
        NotebookError: unknown or unused parameter, unreadable notebook.
        ExecutionError: the notebook did not run to its end.
    """
    check_parameters(read_notebook(source), parameters)
    book = load_notebook_node(str(source))
    if parameters:
        book = parameterize_notebook(book, parameters, kernel_name="python3", language="python")
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
    error = None
    with private_folder(target) as private:
        client = _Client(
            book,
            km=_kernel(private),
            resources={"metadata": {"path": str(source.resolve().parent)}},
            timeout=None,
            iopub_timeout=IOPUB_TIMEOUT_S,
            record_timing=False,
            coalesce_streams=True,
        )
        client.on_progress = on_progress
        try:
            client.execute(cleanup_kc=True, env=kernel_environment(private))
        except CellExecutionError:
            pass  # the cell says what was raised
        except asyncio.CancelledError:  # what nbclient makes of a signal while the kernel starts
            raise KeyboardInterrupt from None
        except DeadKernelError:
            error = ExecutionError(f"{source.stem}: its kernel died; most often memory ran out", "unknown")
    error = error or _problem(book, source)
    try:
        with replacing(failed if error else target) as draft:
            nbformat.write(_tidy(book), draft)
    except WriteError as unwritten:
        if not error:
            raise
        error = ExecutionError(f"{error}; the failed notebook is lost: {unwritten}", error.cell)
    if error:
        raise error


def refresh_prose(source: Path, target: Path) -> None:
    """Give an executed notebook the prose, and the names and tags of cells, that the stored one has now.

    Code and outputs stay. The code of both is the same, so that their code cells pair up in order.
    """
    fresh, executed = nbformat.read(source, as_version=4), nbformat.read(target, as_version=4)
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in ran if cell.id == "injected-parameters"]
    rest = iter([cell for cell in ran if cell.id != "injected-parameters"])
    cells = []
    for cell in fresh.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            kept = next(rest)
            cells.append(nbformat.from_dict(kept | {"id": cell.id, "metadata": kept.metadata | {"tags": tags}}))
            cells += injected if "parameters" in tags else []
        else:
            cells.append(cell)
    executed.cells = cells
    with replacing(target) as draft:
        nbformat.write(executed, draft)


def _problem(book: nbformat.NotebookNode, source: Path) -> ExecutionError | None:
    """Where and why a notebook stopped, in one line; None if all of its cells have run."""
    for cell in book.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        where = f"{source.stem}, cell {cell.id}"
        raised = next((output for output in cell.outputs if output.output_type == "error"), None)
        if raised and (raised.ename, raised.evalue) not in (("SystemExit", "0"), ("SystemExit", "")):
            text = next((line for line in raised.evalue.splitlines() if line.strip()), "")
            # Our own errors are whole sentences with file and remedy; of others the type matters too.
            ours = raised.ename in ("CohortError", "ProfileError") or (raised.ename.endswith("Error") and "; " in text)
            said = text if ours else f"{raised.ename}: {text}".rstrip(": ")
            return ExecutionError(f"{where}: {said}", cell.id)
        if raised or cell.execution_count is None:  # sys.exit(0) skips the rest
            return ExecutionError(f"{where}: the notebook ended here, before its last cell", cell.id)
    return None


def _tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run: addresses, the order of standard output and error, padding of bars."""
    for name in ("papermill", "widgets"):
        book.metadata.pop(name, None)
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = "\n".join(line.rstrip() for line in ADDRESS.sub("", output.text).split("\n"))
            elif "text/plain" in output.get("data", {}):
                output.data["text/plain"] = ADDRESS.sub("", output.data["text/plain"])
        shown = [output for output in cell.outputs if output.output_type != "stream" or output.text.strip()]
        cell.outputs = sorted(shown, key=lambda output: output.get("name") == "stderr")
    return nbformat.from_dict(json.loads(json.dumps(book)))
