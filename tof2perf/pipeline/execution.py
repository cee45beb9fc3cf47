"""Run one notebook through papermill so that it either ends well and reproducibly, or fails with one clear line."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import ERROR_MARKER_TAG, execute_notebook
from traitlets import Any as AnyTrait

from tof2perf.pipeline.fingerprints import check_parameters, read_notebook

_CLOCK = re.compile(r" ?\[(\d+:\d\d[:\d]*[<,][^\[\]]*)\]")  # elapsed time, speed and further numbers of a progress bar
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
SOCKETS = "t2p-k-"  # of kernels' folders in the temporary one; short, since names of sockets end after 107 characters


class ExecutionError(RuntimeError):
    """A notebook that did not run to its end; the message is one line, ``cell`` where it stopped."""

    def __init__(self, message: str, cell: str):
        super().__init__(message)
        self.cell = cell


def _private_folder() -> tuple[Path, int]:
    """A folder for sockets and the lock that says it is in use; those of runs that were killed are removed."""
    for path in Path(tempfile.gettempdir()).glob(f"{SOCKETS}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)
    made = tempfile.mkdtemp(prefix="t2p-")  # takes its place under the other name once it is locked
    handle = os.open(made, os.O_RDONLY)
    with contextlib.suppress(OSError):  # without locks nobody else's folder can be removed either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Path(made).rename(Path(made).with_name(Path(made).name.replace("t2p-", SOCKETS))), handle


def _give_back(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


class _PrivateKernel(AsyncKernelManager):
    """A kernel of the running interpreter on sockets of its own folder.

    Many kernels at once race for TCP ports, and ipc sockets with the default, relative name cross-talk.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        folder, lock = _private_folder()
        self._give_back = weakref.finalize(self, _give_back, folder, lock)  # once, at the latest when Python ends
        self.transport = "ipc"
        self.ip = f"{folder}/k"
        self.connection_file = f"{folder}/kernel.json"
        argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=50", "-f", "{connection_file}"]
        self._kernel_spec = KernelSpec(argv=argv, display_name="Python 3", language="python")

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart=restart)
        if not restart:
            self._give_back()

    cleanup_resources = _async_cleanup_resources


class _Client(PapermillNotebookClient):
    """Hands every line of a progress bar to ``on_progress``."""

    on_progress = AnyTrait(default_value=None, allow_none=True)

    def process_message(self, *args: Any, **options: Any) -> Any:
        output = super().process_message(*args, **options)
        if self.on_progress and output and output.output_type == "stream" and output.name == "stderr":
            last = [line for line in re.split(r"[\r\n]", output.text) if line.strip()][-1:]
            if last and _CLOCK.search(last[0]):
                self.on_progress(last[0].strip())
        return output


class IpcEngine(NBClientEngine):
    """papermill engine: private ipc kernel of this interpreter, no timing metadata, stable cell ids."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        for cell in nb_man.nb.cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.id = "injected-parameters"
        client = _Client(
            nb_man,
            kernel_manager_class=_PrivateKernel,
            kernel_name=kernel_name,
            startup_timeout=options.get("start_timeout") or 60,
            timeout=options.get("execution_timeout"),
            record_timing=False,
            on_progress=options.get("on_progress"),
        )
        return client.execute()

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        return name or "python3"

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        return language or "python"


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
    papermill_engines.register("tof2perf", IpcEngine)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".part-{target.name}").resolve()
    # Text bars in place of widgets: a stored notebook must be readable without a kernel. tqdm chooses them when a
    # variable's name begins so; there is no other switch.
    os.environ["SPYDER_TEXT_BARS"] = "1"
    os.environ["TOF2PERF_STORED"] = "1"  # and drawings in place of sliders: tof2perf.figures.sliders
    error: ExecutionError | None = None
    try:
        try:
            execute_notebook(
                str(source.resolve()),
                str(draft),
                parameters=parameters,
                engine_name="tof2perf",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=str(source.resolve().parent),
                on_progress=on_progress,
            )
        except PapermillExecutionError as problem:
            error = _explain(problem, draft, source)
        except DeadKernelError:
            error = ExecutionError(f"{source.stem}: its kernel died; most often memory ran out", "unknown")
        book = _tidy(nbformat.read(draft, as_version=4))
        if error is None:
            error = _ended_early(book, source)
        nbformat.write(book, draft)
        destination = target if error is None else failed
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, destination)
    finally:
        draft.unlink(missing_ok=True)
    if error is not None:
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
    draft = target.with_name(f".part-{target.name}")
    try:
        nbformat.write(executed, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _explain(problem: PapermillExecutionError, draft: Path, source: Path) -> ExecutionError:
    """One line for a traceback: notebook, cell, and what the exception says."""
    cells = [c for c in nbformat.read(draft, as_version=4).cells if ERROR_MARKER_TAG not in c.metadata.get("tags", [])]
    cell = cells[problem.cell_index].id if problem.cell_index < len(cells) else str(problem.cell_index)
    lines = [line for line in str(problem.evalue).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    # Our own errors are whole sentences with file and remedy; of others the type matters too.
    ours = problem.ename in ("CohortError", "ProfileError") or (problem.ename.endswith("Error") and "; " in text)
    return ExecutionError(
        f"{source.stem}, cell {cell}: {text if ours else f'{problem.ename}: {text}'.rstrip(': ')}", cell
    )


def _ended_early(book: nbformat.NotebookNode, source: Path) -> ExecutionError | None:
    """``sys.exit(0)`` skips the rest of a notebook while papermill reports success."""
    for cell in book.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        left = any(output.output_type == "error" for output in cell.outputs)
        if cell.execution_count is None or left:
            return ExecutionError(
                f"{source.stem}, cell {cell.id}: the notebook ended here, before its last cell", cell.id
            )
    return None


def _tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run: times, paths of drafts, progress rates, addresses."""
    book.metadata.pop("papermill", None)
    book.metadata.pop("widgets", None)
    book.cells = [cell for cell in book.cells if ERROR_MARKER_TAG not in cell.metadata.get("tags", [])]
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        streams: dict[str, nbformat.NotebookNode] = {}
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name in streams:  # how the text was cut into messages is chance
                    streams[output.name].text += output.text
                    continue
                streams[output.name] = output
            elif "text/plain" in output.get("data", {}):
                output.data["text/plain"] = _ADDRESS.sub("", output.data["text/plain"])
            outputs.append(output)
        for stream in streams.values():
            stream.text = _settle(stream.text)
        outputs = [output for output in outputs if output.output_type != "stream" or output.text.strip()]
        cell.outputs = sorted(outputs, key=lambda output: output.get("name") == "stderr")  # whose place is chance too
    return nbformat.from_dict(json.loads(json.dumps(book)))


def _settle(text: str) -> str:
    """What a terminal would still show in the end: of a line rewritten in place the last state, without its clock."""
    lines = []
    for line in text.split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        lines.append(_CLOCK.sub(_without_clock, states[-1]).rstrip() if states else "")
    return _ADDRESS.sub("", "\n".join(lines))


def _without_clock(bar: re.Match) -> str:
    """Of ``[time, speed, loss=1.2]`` keep the loss."""
    numbers = bar[1].split(", ")[2:]
    return f" [{', '.join(numbers)}]" if numbers else ""
