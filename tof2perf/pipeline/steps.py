"""Run the steps of a paper that content says are stale, here or through a launcher; write Make's rules for them."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from tof2perf.pipeline import fingerprints
from tof2perf.pipeline.fingerprints import NotebookError
from tof2perf.pipeline.graph import Step
from tof2perf.pipeline.launching import JobError, launch
from tof2perf.pipeline.staleness import (
    current_inputs,
    files_under,
    hash_file,
    hash_files,
    judge,
    judge_all,
    manifest_is_true,
    parameters_of,
    read_stamp,
)
from tof2perf.system import workers
from tof2perf.system.files import WriteError, digest, lock, remove_drafts, write_json, write_text
from tof2perf.system.memory import peak_of_children_gb
from tof2perf.system.run import Run

REPORT_EVERY_S = 30.0
SEEN_WITHIN_S = 60.0  # network file systems may show a new file to other machines that much later (assumption)


def run_step(step: Step, run: Run) -> None:
    """Run a step unless its content says that it is fresh.

    What an earlier run with other inputs left behind is removed first; what an interrupted run with the same inputs
    left (a checkpoint, finished patients) stays, so that a notebook may resume; half-written files never stay.

    Raises:
        NotebookError: the step is declared wrongly.
        ExecutionError: the notebook failed; it is kept in the folder ``failed``.
    """
    absent = [name for name in step.after if read_stamp(run.stamp(name)) is None]
    if absent:
        raise NotebookError(f"{step.name}: {absent[0]} has not run; run make, which runs it first")
    source, executed, failed = step.source(run), run.executed(step.name), run.failed(step.name)
    parameters = parameters_of(step, run)
    fingerprints.check_parameters(fingerprints.read_notebook(source), parameters)
    verdict = judge(step, run)
    if verdict.state == "fresh":
        return
    from tof2perf.pipeline import execution  # takes a second to load, and a fresh step needs none of it

    stamp = read_stamp(run.stamp(step.name))
    if verdict.state == "prose" and stamp is not None:
        execution.refresh_prose(source, executed)
        prose = fingerprints.prose(fingerprints.read_notebook(source))
        write_json(run.stamp(step.name), stamp | {"notebook": hash_file(executed, None), "prose": prose})
        return
    inputs, files = current_inputs(step, run, stamp["files"] if stamp else {})
    _clear_unless_resuming(step, run, stamp, inputs)
    print_line(f"{step.name} ...  ({verdict.reason})" if verdict.state == "stale" else f"{step.name} ...")
    began, root = time.monotonic(), Path(run.root)
    try:
        execution.run_notebook(source, executed, parameters=parameters, failed=failed, on_progress=_reporter(step.name))
        outputs = hash_files({os.path.relpath(file, root): file for file in files_under(step.outputs, root)}, {})
        for pattern in step.outputs:
            if not files_under([pattern], root):
                failed.parent.mkdir(parents=True, exist_ok=True)
                os.replace(executed, failed)
                raise execution.ExecutionError(f"{step.notebook}: ended, but wrote no {pattern}", "last")
    except execution.ExecutionError as error:
        with contextlib.suppress(WriteError):  # a full disk must not hide why the notebook failed
            write_json(failed.with_suffix(".json"), {"error": str(error), "cell": error.cell})
        raise
    seconds, memory = round(time.monotonic() - began, 1), round(peak_of_children_gb(), 2)
    write_json(
        run.stamp(step.name),
        {
            "step": step.name,
            "seconds": seconds,
            "peak_memory_gb": memory,
            "inputs": inputs,
            "prose": fingerprints.prose(fingerprints.read_notebook(source)),
            "files": files,
            "outputs": outputs,
            "notebook": hash_file(executed, None),
        },
    )
    for remnant in (failed, failed.with_suffix(".json"), _started(step, run)):
        remnant.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # do not leave an empty folder "failed" behind
        failed.parent.rmdir()
    print_line(f"{step.name}  {seconds:.0f} s, {memory:.1f} GB")


def run_elsewhere(step: Step, run: Run, launcher: list[str], command: list[str]) -> None:
    """Give a step that must run to a launcher such as ``srun``, and wait for it.

    A step that turns out to be fresh is judged here and costs no place in a queue.

    Args:
        step: the step.
        run: where it runs; a folder that the other machine sees too.
        launcher: words before the command.
        command: what the launcher is to call.

    Raises:
        JobError: it failed, was cancelled, or left no stamp.
    """
    if judge(step, run).state in ("fresh", "prose"):
        return run_step(step, run)
    path = run.stamp(step.name)
    before = read_stamp(path)
    launch(launcher, command, name=step.name)
    until = time.monotonic() + SEEN_WITHIN_S
    while read_stamp(path) == before:
        if time.monotonic() > until:
            raise JobError(
                f"{step.name}: its job ended well, but {path} is not seen here; put ROOT where all machines see it"
            )
        os.listdir(path.parent)  # makes a network file system look again
        time.sleep(0.5)


def _started(step: Step, run: Run) -> Path:
    return run.stamp(step.name).with_suffix(".started")


def _clear_unless_resuming(step: Step, run: Run, stamp: dict | None, inputs: dict) -> None:
    marker, key, root = _started(step, run), digest(json.dumps(inputs, sort_keys=True)), Path(run.root)
    try:
        resuming = marker.read_text(encoding="utf-8") == key
    except OSError:
        resuming = False
    if not resuming:
        recorded = [root / path for path in stamp["outputs"]] if stamp else []
        for path in {*recorded, *files_under(step.outputs, root)}:
            path.unlink(missing_ok=True)
        write_text(marker, key)
    remove_drafts((root / pattern for pattern in step.outputs), below=True)


def _reporter(name: str) -> Callable[[str], None]:
    """Show a long step's progress bar now and then: often enough to see it move, rarely enough for a log."""
    last = time.monotonic()

    def report(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            print_line(f"{name}  {line}")

    return report


def print_line(line: str) -> None:
    """Print one line in one piece, so that lines of parallel steps never mix."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM end a step as Ctrl-C does: the kernel is shut down, nothing half-written stays."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- for make ---------------------------------------------------------------------------------------------------------


def lock_and_exec(run: Run, command: list[str]) -> NoReturn:
    """Become ``command`` while holding a lock on a results folder.

    The command and its children inherit the lock: it outlives a make that was killed while its steps still write. If
    the make that called is killed, the system ends the command, and nothing goes on computing for hours.

    Raises:
        WriteError: another make holds the lock.
    """
    busy = "another make works in this results folder; wait until it has ended, or choose another ROOT"
    handle, held = lock(run.results, busy=busy)
    if not held:
        print(f"{run.results}: a file system without locks; start only one make at a time here", file=sys.stderr)
    with contextlib.suppress(OSError):
        remove_drafts([run.results, *(run.results / name for name in (".stamps", "notebooks", "failed"))])
    os.set_inheritable(handle, True)
    workers.end_with_parent_after_exec()
    os.execvp(command[0], command)


def write_rules(steps: list[Step], run: Run, cohorts: list[str]) -> Path:
    """Write Make's rules: a step has a recipe if it must be visited, and comes after those it needs.

    No target is a file: content has decided here what is stale, so Make compares no times.

    Returns:
        The file to include.
    """
    verdicts = judge_all(steps, run)
    names = " ".join(verdicts)
    lines = [f"COHORTS := {' '.join(cohorts)}", f"STEPS := {names}", f".PHONY: {names} manifest"]
    for step in steps:
        lines.append(f"{step.name}: | {' '.join(step.after)}".rstrip(" |"))
        if verdicts[step.name].state != "fresh":
            lines.append(f"\t@$(PIPELINE) run {step.name}")
    lines.append(f"manifest: | {names}")
    if any(verdict.state != "fresh" for verdict in verdicts.values()) or not manifest_is_true(steps, run):
        lines.append("\t@$(PIPELINE) manifest")
    path = run.results / ".stamps" / "rules.mk"
    write_text(path, "\n".join(lines) + "\n")
    return path


def print_status(steps: list[Step], run: Run) -> None:
    """Print a table of all steps and why one must run."""
    verdicts = judge_all(steps, run)
    width = max(len(step.name) for step in steps)
    for step in steps:
        verdict, stamp = verdicts[step.name], read_stamp(run.stamp(step.name))
        took = f"{stamp.get('seconds', 0):.0f} s" if stamp else ""
        print(f"{step.name:{width}}  {verdict.state:8}  {took:>7}  {verdict.reason}".rstrip())
    fresh = sum(verdict.state == "fresh" for verdict in verdicts.values())
    print(f"{fresh} of {len(steps)} steps are fresh in {os.path.relpath(run.results)}")
