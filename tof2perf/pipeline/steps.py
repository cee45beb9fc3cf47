"""Run the steps of the paper that content says are stale.

Make holds the graph and calls this module: once to ask which steps to visit (``stale``), then once a visited step
(``run``).
"""

import argparse
import ast
import contextlib
import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tof2perf.pipeline import fingerprints
from tof2perf.pipeline.fingerprints import NotebookError
from tof2perf.pipeline.launching import JobError, launch, use_the_jobs_cores
from tof2perf.pipeline.staleness import (
    Place,
    Step,
    current_inputs,
    files_under,
    judge,
    judge_all,
    look,
    look_all,
    manifest_is_true,
    read_stamp,
    write_json,
)
from tof2perf.system import workers

SEEN_WITHIN_S = 60.0  # network file systems may show a new file to other machines that much later (assumption)


def run_step(step: Step, place: Place) -> None:
    """Run a step unless its content says that it is fresh.

    What an earlier run with other inputs left behind is removed first; what an interrupted run with the same inputs
    left (a checkpoint, finished patients) stays, so that a notebook may resume; half-written files never stay.

    Raises:
        NotebookError: the step is declared wrongly.
        ExecutionError: the notebook failed; it is kept in the folder ``failed``.
    """
    absent = [name for name in step.after if read_stamp(place.stamp(name)) is None]
    if absent:
        raise NotebookError(f"{step.name}: {absent[0]} has not run; run make, which runs it first")
    source, executed, failed = place.notebook(step), place.executed(step.name), place.failed(step.name)
    parameters = place.parameters(step)
    fingerprints.check_parameters(fingerprints.read_notebook(source), parameters)
    verdict = judge(step, place)
    if verdict.state == "fresh":
        return
    # What checks a notebook's form compiles a grammar of web addresses when loaded, if it finds one: half of the time
    # that papermill takes to load, and no notebook is checked for addresses.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from tof2perf.pipeline import execution  # takes a second to load, and a fresh step needs none of it

    stamp = read_stamp(place.stamp(step.name))
    if verdict.state == "prose" and stamp is not None:
        execution.refresh_prose(source, executed)
        prose = fingerprints.prose(fingerprints.read_notebook(source))
        write_json(place.stamp(step.name), stamp | {"notebook": look(executed, None), "prose": prose})
        return
    inputs, files = current_inputs(step, place, stamp["files"] if stamp else {})
    _clear_unless_resuming(step, place, stamp, inputs)
    say(f"{step.name} ...  ({verdict.reason})" if verdict.state == "stale" else f"{step.name} ...")
    began, reporter = time.monotonic(), _Reporter(step.name)
    try:
        execution.run_notebook(source, executed, parameters=parameters, failed=failed, on_progress=reporter)
        outputs = look_all(files_under(step.outputs, place.root), place.root, {})
        for pattern in step.outputs:
            if not files_under([pattern], place.root):
                failed.parent.mkdir(parents=True, exist_ok=True)
                os.replace(executed, failed)
                raise execution.ExecutionError(f"{step.notebook}: ended, but wrote no {pattern}", "last")
    except execution.ExecutionError as error:
        write_json(failed.with_suffix(".json"), {"error": str(error), "cell": error.cell})
        raise
    seconds, memory = round(time.monotonic() - began, 1), peak_memory_gb()
    book = look(executed, None)
    write_json(
        place.stamp(step.name),
        {
            "step": step.name,
            "seconds": seconds,
            "peak_memory_gb": memory,
            "inputs": inputs,
            "prose": fingerprints.prose(fingerprints.read_notebook(source)),
            "files": files,
            "outputs": outputs,
            "notebook": book,
        },
    )
    for remnant in (failed, failed.with_suffix(".json"), _started(step, place)):
        remnant.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # an empty folder "failed" would frighten
        failed.parent.rmdir()
    say(f"{step.name}  {seconds:.0f} s, {memory:.1f} GB")


def begin(step: Step, place: Place) -> None:
    """Clear the ground for a step whose patients, or ranks, are shared by several jobs before its notebook runs."""
    stamp = read_stamp(place.stamp(step.name))
    if judge(step, place).state not in ("fresh", "prose"):
        inputs, _ = current_inputs(step, place, stamp["files"] if stamp else {})
        _clear_unless_resuming(step, place, stamp, inputs)


def run_elsewhere(step: Step, place: Place, launcher: list[str], command: list[str], *, part: str = "") -> None:
    """Give a step that must run, or a part of it, to a launcher such as ``srun``, and wait for it.

    A step that turns out to be fresh is judged here and costs no place in a queue.

    Args:
        step: the step.
        place: where it runs; a folder that the other machine sees too.
        launcher: words before the command.
        command: what the launcher is to call.
        part: the part's name; empty for the step as a whole.

    Raises:
        JobError: it failed, was cancelled, or left no stamp.
    """
    if judge(step, place).state in ("fresh", "prose"):
        if not part:
            run_step(step, place)
        return
    name, path = f"{step.name} {part}".strip(), place.stamp(step.name)
    before = read_stamp(path)
    if part:
        say(f"{name} ...")
    launch(launcher, command, name=name)
    if part:
        return
    until = time.monotonic() + SEEN_WITHIN_S
    while read_stamp(path) == before:
        if time.monotonic() > until:
            raise JobError(
                f"{name}: its job ended well, but {path} is not seen here; put ROOT where all machines see it"
            )
        os.listdir(path.parent)  # makes a network file system look again
        time.sleep(0.5)


def _started(step: Step, place: Place) -> Path:
    return place.stamp(step.name).with_suffix(".started")


def _clear_unless_resuming(step: Step, place: Place, stamp: dict | None, inputs: dict) -> None:
    marker, key = _started(step, place), fingerprints.digest(json.dumps(inputs, sort_keys=True))
    try:
        resuming = marker.read_text(encoding="utf-8") == key
    except OSError:
        resuming = False
    if not resuming:
        recorded = [place.root / path for path in stamp["outputs"]] if stamp else []
        for path in {*recorded, *files_under(step.outputs, place.root)}:
            path.unlink(missing_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(key, encoding="utf-8")
    for path in _halves(step.outputs, place.root):
        path.unlink(missing_ok=True)


def _halves(patterns: Iterable[str], base: Path) -> Iterator[Path]:
    """What writers of these files or folders left under temporary names when they were killed."""
    for pattern in patterns:
        start = base / pattern
        yield from start.rglob(".*.part") if start.is_dir() else start.parent.glob(f".{start.name}.*.part")


class _Reporter:
    """Shows a long step's progress bar now and then: often enough to see it move, rarely enough for a log."""

    def __init__(self, name: str, every: float = 30.0):
        self.name, self.every, self.last = name, every, time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            say(f"{self.name}  {line}")


def say(line: str) -> None:
    """Print one line in one piece, so that lines of parallel steps never mix."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def peak_memory_gb() -> float:
    """Largest resident memory of any process this one waited for (the kernel), in GB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)  # macOS counts bytes, Linux KiB


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM end a step as Ctrl-C does: the kernel is shut down, nothing half-written stays."""
    import signal

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lock_and_exec(folder: Path, command: list[str]) -> NoReturn:
    """Become ``command`` while holding a lock on a results folder.

    The lock belongs to the open folder, which the command and its children inherit: it needs no file, it ends with the
    last of them however they end, and it outlives a make that was killed while its steps still write. If the make that
    called is killed, the command is told to end, so that nothing goes on for hours that nobody waits for.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{folder}: another make is at work here; wait until it has ended, or give another ROOT")
    except OSError:
        print(f"{folder}: a file system without locks; start only one make at a time here", file=sys.stderr)
    for half in (*folder.glob(".part-*"), *folder.glob("*/.part-*")):  # of a writer that was killed
        with contextlib.suppress(OSError):
            half.unlink()
    os.set_inheritable(handle, True)
    workers.end_with_parent_after_exec()
    os.execvp(command[0], command)


_DENIED = "; give yourself the right to write there (chmod u+w), or give another ROOT"
_FULL = "; make room there, or give another ROOT"
_REMEDIES = {  # of errors of the system, which name the file but not what to do
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


# --- command line -----------------------------------------------------------------------------------------------------


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_step(words: list[str]) -> Step:
    """Read one step as the Makefile writes it: NAME --notebook N [-p KEY VALUE]... [--after/--inputs/--outputs ...]."""
    parser = argparse.ArgumentParser(prog="step", add_help=False)
    parser.add_argument("name")
    parser.add_argument("--notebook", required=True)
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[])
    for option in ("--after", "--inputs", "--outputs"):
        parser.add_argument(option, nargs="*", default=[])
    found = parser.parse_args(words)
    return Step(
        name=found.name,
        notebook=found.notebook,
        parameters={key: _literal(value) for key, value in found.parameters},
        after=tuple(found.after),
        inputs=tuple(found.inputs),
        outputs=tuple(found.outputs),
    )


def parse_plan(words: list[str]) -> list[Step]:
    """Read many steps, each preceded by ``:``, upstream first."""
    groups: list[list[str]] = []
    for word in words:
        if word == ":":
            groups.append([])
        else:
            groups[-1].append(word)
    return [parse_step(group) for group in groups]


def print_status(steps: list[Step], place: Place) -> None:
    """Print a table of all steps and why one must run."""
    verdicts = judge_all(steps, place)
    width = max(len(step.name) for step in steps)
    for step in steps:
        verdict, stamp = verdicts[step.name], read_stamp(place.stamp(step.name))
        took = f"{stamp.get('seconds', 0):.0f} s" if stamp else ""
        print(f"{step.name:{width}}  {verdict.state:8}  {took:>7}  {verdict.reason}".rstrip())
    fresh = sum(verdict.state == "fresh" for verdict in verdicts.values())
    print(f"{fresh} of {len(steps)} steps are fresh in {os.path.relpath(place.results)}")


def _work(found: argparse.Namespace, place: Place) -> None:
    """Run a step, or one part of it, here or through a launcher."""
    part = found.rest.pop(0) if found.action == "part" else ""
    step = parse_step(found.rest)
    if found.action == "begin":
        return begin(step, place)
    where = ["--root", str(place.root), "--profile", place.profile, *(["--data", place.data] if place.data else [])]
    if found.job:
        use_the_jobs_cores()
    launcher = shlex.split(os.environ.get(found.by, ""))
    if part:
        given = [word for key, value in step.parameters.items() for word in (f"--{key}", str(value))]
        work = [sys.executable, "-m", "tof2perf.jobs", step.notebook, *where, *given, "--part", part]
        if found.job:
            os.execv(work[0], work)
        if not launcher:
            return run_elsewhere(step, place, [], work, part=part)
    elif not launcher:
        return run_step(step, place)
    again = [*where, "--repository", str(place.repository), "--run", place.run, "--job", found.action]
    command = [sys.executable, "-m", "tof2perf.pipeline.steps", *again, *([part] if part else []), *found.rest]
    run_elsewhere(step, place, launcher, command, part=part)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the Makefile."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m tof2perf.pipeline.steps", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path())
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--run", required=True)
    parser.add_argument("--profile", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--by", default="", help="environment variable with the launcher of the work, or with nothing")
    parser.add_argument("--job", action="store_true", help="this is the work that a launcher was given")
    parser.add_argument("action", choices=("stale", "status", "run", "begin", "part", "lock"))
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    found = parser.parse_args(words)
    place = Place(found.repository, found.root, found.run, found.profile, found.data)
    try:
        if found.action == "lock":
            lock_and_exec(place.results, found.rest)
        if found.action in ("run", "begin", "part"):
            with interrupted_by_signals():
                workers.end_with(os.getppid())
                _work(found, place)
        elif found.action == "status":
            print_status(parse_plan(found.rest), place)
        else:
            steps = parse_plan(found.rest)
            visit = [name for name, verdict in judge_all(steps, place).items() if verdict.state != "fresh"]
            print(*visit, *([] if not visit and manifest_is_true(steps, place) else ["manifest"]))
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, run make again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a table has seen enough
        sys.stderr.close()
    except ModuleNotFoundError as error:
        print(f"{sys.executable} lacks {error.name}: install requirements-lock.txt into it", file=sys.stderr)
        return 1
    except JobError as error:
        if str(error):  # else the job has said itself what went wrong
            print(f"error: {error}", file=sys.stderr)
        return 1
    except (NotebookError, RuntimeError, OSError) as error:
        remedy = _REMEDIES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        print(f"error: {error}{remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
