"""Whether a step is fresh, decided by content and never by clock: what it was made from, and what it made.

A finished step's stamp, ``results/<run>/.stamps/<step>.json``, holds the hashes of both.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tof2perf.pipeline import fingerprints
from tof2perf.pipeline.graph import Step
from tof2perf.system.codebase import hash_module, hash_small, module_files
from tof2perf.system.files import digest, file_digest, write_json
from tof2perf.system.run import Run

TICK_NS = 20_000_000  # a file changed this shortly before it was hashed may change again without a new time


@dataclass(frozen=True)
class Verdict:
    """What is known of a step: fresh, prose (only its prose changed), stale, missing or failed, and why."""

    state: str
    reason: str = ""


# --- files -------------------------------------------------------------------------------------------------


def hash_file(path: Path, known: list | None) -> list | None:
    """Hash a file, or trust what is known of it while size and times are the same.

    Args:
        path: the file.
        known: what the last call returned.

    Returns:
        ``[sha256, size, mtime, ctime]``, None if there is no such file. Times are 0 where the file was so young that
        a further change might not show in them: such a file is hashed again next time.
    """
    try:
        facts = path.stat()
    except OSError:
        return None
    times = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    if known and known[1:] == times:
        return known
    now = time.time_ns()
    content = file_digest(path)
    settled = max(times[1:]) < now - TICK_NS
    entry = [content, times[0], *(times[1:] if settled else (0, 0))]
    return known if known and known[0] == content and not settled else entry


def hash_files(files: dict[str, Path], known: dict[str, list]) -> dict[str, list]:
    """Hash files by name as :func:`hash_file` does; those that are missing are left out."""
    entries = {name: hash_file(file, known.get(name)) for name, file in files.items()}
    return {name: entry for name, entry in entries.items() if entry is not None}


def files_under(patterns: Iterable[str], base: Path) -> list[Path]:
    """Every file that paths, folders or glob patterns below ``base`` stand for, hidden ones aside, sorted."""
    found: set[Path] = set()
    for pattern in patterns:
        start = base / pattern
        for path in [start] if start.exists() else sorted(base.glob(pattern)) if "*" in pattern else []:
            inside = path.rglob("*") if path.is_dir() else [path]
            for file in inside:
                hidden = any(part.startswith(".") for part in file.relative_to(path.parent).parts)
                if file.is_file() and not hidden:
                    found.add(file)
    return sorted(found)


# --- stamps -----------------------------------------------------------------------------------------------------------


def read_stamp(path: Path) -> dict | None:
    """A step's stamp; None if there is none or it cannot be understood, which means that the step must run."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return stamp if {"inputs", "files", "outputs", "notebook", "prose"} <= stamp.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def results_digest(stamp: dict | None) -> str:
    """One hash for all that a step made, the executed notebook aside; empty if it has not run."""
    if stamp is None:
        return ""
    return digest(json.dumps({path: entry[0] for path, entry in sorted(stamp["outputs"].items())}))


def input_name(file: Path, run: Run) -> str:
    """Name an input file as stamps do: the root and the user's folder may move, what lies in them counts."""
    full, root, data = (Path(os.path.abspath(path)) for path in (file, run.root, run.data or run.root))
    if full.is_relative_to(root):
        return full.relative_to(root).as_posix()
    if full.is_relative_to(data):
        return f"{data.name}/{full.relative_to(data).as_posix()}"
    return os.path.relpath(full, run.repository)


def parameters_of(step: Step, run: Run) -> dict[str, Any]:
    """All values a step's notebook is called with; paths are relative so that results name no machine."""
    source = step.source(run)
    known = fingerprints.read_notebook(source).parameters
    root = os.path.relpath(Path(run.root).resolve(), source.parent.resolve())
    data = str(Path(run.data).resolve()) if run.data else ""
    common = {"profile": run.profile, "root": root, "data": data}
    return {name: value for name, value in common.items() if name in known} | step.parameters


def current_inputs(step: Step, run: Run, known_files: dict[str, list]) -> tuple[dict, dict[str, list]]:
    """Hash all that a step's results depend on.

    Args:
        step: the step.
        run: where it runs.
        known_files: what is known of its input files.

    Returns:
        The hashes by kind (``cells``, ``modules``, ``profile``, ``parameters``, ``lock``, ``files``, ``upstream``), and
        what is known of the input files now.
    """
    notebook = fingerprints.read_notebook(step.source(run))
    parameters = parameters_of(step, run)
    trees = notebook.trees()
    modules = module_files(trees, run.repository)
    chains = fingerprints.profile_keys(trees, notebook.parameters | parameters)
    profile = parameters.get("profile", run.profile)  # a page for students may try itself on a smaller one
    profile_file = run.repository / "notebooks" / "profiles" / f"{profile}.yaml"
    lock = run.repository / "requirements-lock.txt"
    inputs = {input_name(file, run): file for file in files_under(step.inputs, run.repository)}
    files = hash_files(inputs, known_files)
    hashes = {
        "cells": fingerprints.code_cells(notebook),
        "modules": {name: hash_module(file) for name, file in modules.items()},
        "profile": fingerprints.profile_values(chains, profile_file),
        # where the folders lie is no input: what lies in them is
        "parameters": {name: value for name, value in parameters.items() if name not in ("root", "data")},
        "lock": hash_small(lock) if lock.is_file() else "",
        "files": {path: entry[0] for path, entry in files.items()},
        "upstream": {name: results_digest(read_stamp(run.stamp(name))) for name in step.after},
    }
    return hashes, files


def difference(old: dict, new: dict) -> str:
    """Every reason for a rerun, in words; empty if there is none.

    A step before this one that has not run is no reason yet: its results may turn out to be the same.
    """
    reasons = [reason] if (reason := _cell_difference(old["cells"], new["cells"])) else []
    words = {"modules": "module {}", "profile": "profile key {}", "parameters": "parameter {}", "files": "input {}"}
    for kind, thing in words.items():
        before, after = old.get(kind, {}), new[kind]
        changed = [name for name in before.keys() & after.keys() if before[name] != after[name]]
        # Changed code imports other modules and reads other keys: then these are no reasons themselves.
        explained = kind in ("modules", "profile") and (changed or reasons)
        for names, deed in (
            (changed, "changed"),
            ((after.keys() - before.keys()) if not explained else (), "is new"),
            ((before.keys() - after.keys()) if not explained else (), "is gone"),
        ):
            if names:
                reasons.append(f"{thing.format(_some(names))} {deed}")
    before, after = old.get("upstream", {}), {name: made for name, made in new["upstream"].items() if made}
    if changed := [name for name in after if before.get(name, after[name]) != after[name]]:
        reasons.append(f"{_some(changed)} gave other results")
    if added := after.keys() - before.keys():
        reasons.append(f"it now comes after {_some(added)}")
    if old.get("lock") != new["lock"]:
        reasons.append("requirements-lock.txt changed")
    return "; ".join(reasons)


def _some(names: Collection[str]) -> str:
    """Three of the names, and how many more there are."""
    first, more = sorted(names)[:3], len(names) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _cell_difference(old: list, new: list) -> str:
    if [content for _, content in old] == [content for _, content in new]:
        return ""
    if changed := _beyond(new, old):
        return f"code cell {', '.join(changed)} changed"
    removed = _beyond(old, new)
    return f"code cell {', '.join(removed)} removed" if removed else "code cells moved"


def _beyond(cells: list, others: list) -> list[str]:
    """Names of the cells whose content the others lack, or hold fewer times."""
    left, found = Counter(content for _, content in others), []
    for name, content in cells:
        left[content] -= 1
        if left[content] < 0:
            found.append(name)
    return found


def judge(step: Step, run: Run) -> Verdict:
    """Compare a step's stamp with what is there now, its upstream steps taken as they are."""
    stamp = read_stamp(run.stamp(step.name))
    if stamp is None:
        return _failure(step, run) or Verdict("missing", "has not run yet")
    inputs, files = current_inputs(step, run, stamp["files"])
    reason = difference(stamp["inputs"], inputs)
    if reason:
        return _failure(step, run) or Verdict("stale", reason)
    seen = {}
    for path, entry in stamp["outputs"].items():
        now = hash_file(Path(run.root) / path, entry)
        if now is None or now[0] != entry[0]:
            return Verdict("stale", f"{path} {'is missing' if now is None else 'was changed since'}")
        seen[path] = now
    book = hash_file(run.executed(step.name), stamp["notebook"])
    if book is None or book[0] != stamp["notebook"][0]:
        return Verdict("stale", f"its executed notebook {'is missing' if book is None else 'was changed since'}")
    if (files, seen, book) != (stamp["files"], stamp["outputs"], stamp["notebook"]):
        with contextlib.suppress(OSError):  # only times changed; remembering them saves hashing them next time
            write_json(run.stamp(step.name), stamp | {"files": files, "outputs": seen, "notebook": book})
    if stamp["prose"] != fingerprints.prose(fingerprints.read_notebook(step.source(run))):
        return Verdict("prose", "only prose changed")
    return Verdict("fresh")


def _failure(step: Step, run: Run) -> Verdict | None:
    try:
        record = json.loads(run.failed(step.name).with_suffix(".json").read_text(encoding="utf-8"))
        return Verdict("failed", f"{record['error']} (see {os.path.relpath(run.failed(step.name))})")
    except (OSError, ValueError, KeyError):
        return None


def judge_all(steps: Iterable[Step], run: Run) -> dict[str, Verdict]:
    """Judge every step; one that waits for another that must run is ``waiting``: it may turn out to be fresh."""
    verdicts: dict[str, Verdict] = {}
    for step in steps:
        verdict = judge(step, run)
        busy = [name for name in step.after if verdicts[name].state not in ("fresh", "prose")]
        if busy and verdict.state in ("fresh", "prose"):
            verdict = Verdict("waiting", f"{', '.join(busy[:3])} must run first")
        verdicts[step.name] = verdict
    return verdicts


def manifest_is_true(steps: Iterable[Step], run: Run) -> bool:
    """Whether ``manifest.json`` lists what the steps made, byte for byte as their stamps know it."""
    try:
        listed = json.loads((run.results / "manifest.json").read_text(encoding="utf-8"))["files"]
        for step in steps:
            stamp = read_stamp(run.stamp(step.name)) or {}
            made = {Path(run.root) / path: entry[0] for path, entry in stamp["outputs"].items()}
            made[run.executed(step.name)] = stamp["notebook"][0]
            for path, content in made.items():
                if not path.is_relative_to(run.results):
                    continue
                if listed[path.relative_to(run.results).as_posix()]["sha256"] != content:
                    return False
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
