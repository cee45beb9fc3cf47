"""What long runs meet, done to copies of a smoke run, and what the next ``make paper`` makes of it: a matrix."""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from helpers.faults import (
    Copy,
    Unavailable,
    full_disk,
    kill,
    many_kills,
    ran,
    read_only,
    set_clock,
    truncate,
    truncate_checkpoint,
    two_makes,
    write_anew,
)
from helpers.miniature import check_out, make

RESULTS = ("tables", "metrics", "predictions", "figures", "models", "lesions", "rating")
FOLDERS = (*(f"results/smoke/{name}" for name in RESULTS), "data/simulated", "data/oracle", "data/preprocessed")


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes:
        fault: what happens.
        moment: where and when.
        strike: does it to a copy; returns what make said meanwhile.
        stale: steps that are unmade beforehand.
        said: pattern that is found in what make said.
        reruns: steps that the next make runs, no more and no fewer.
    """

    fault: str
    moment: str
    strike: Callable[[Copy], str]
    stale: tuple[str, ...] = ()
    said: str = ""
    reruns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """What came of a scenario; ``problem`` is empty if all is well."""

    scenario: Scenario
    note: str = ""
    said: str = ""
    reran: tuple[str, ...] = ()
    identical: str = ""
    left: tuple[str, ...] = ()
    problem: str = ""
    unavailable: str = ""


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every result and of all data by relative path."""
    found = {}
    for top in FOLDERS:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def in_short(said: str, folder: Path) -> str:
    """The line that tells most, without the folder's name: an error, or the first step that ran, or the last line."""
    lines = [line for line in said.splitlines() if line.strip() and "warning:" not in line]
    telling = [line for line in lines if line.startswith("error:") or "another make" in line]
    telling += [line for line in lines if line.startswith("make") and "***" in line]
    telling += [line for line in lines if " ..." in line]
    return (telling or lines[-1:] or ["nothing"])[0].replace(f"{folder}/", "").removeprefix("error: ")


def play(scenario: Scenario, base: Path, home: Path) -> Row:
    """Make a copy, strike, wait for the dust to settle, run make again, and compare with the undisturbed run."""
    copy = Copy(base, home)
    try:
        for step in scenario.stale:
            copy.unmake(step)
        try:
            said = scenario.strike(copy)
        except Unavailable as reason:
            return Row(scenario, unavailable=str(reason))
        copy.settle()
        copy.disarm()
        status, again = copy.make("paper")
        copy.settle()
        copy.look_for_leftovers()
        expected, found = digests(base), digests(copy.folder)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        problems = [f"rerun: {in_short(again, copy.folder)}"] * (status != 0)
        problems += [f"make said {said[-300:]!r}"] * (not re.search(scenario.said, said))
        problems += [f"reran {', '.join(ran(again)) or 'nothing'}"] * (set(ran(again)) != set(scenario.reruns))
        problems += [f"differs: {', '.join(differing[:3])}"] * bool(differing)
        problems += [f"left over: {', '.join(copy.left[:3])}"] * bool(copy.left)
        return Row(
            scenario,
            note=copy.note,
            said=in_short(said or again, copy.folder),
            reran=ran(again),
            identical=f"{len(expected) - len(differing)} of {len(expected)}",
            left=tuple(copy.left),
            problem="; ".join(problems),
        )
    finally:
        copy.clean()


# --- the rows ---------------------------------------------------------------------------------------------------------


def killed(victim: str, step: str, moment: str, pattern: str, count: int = 1, said: str = "") -> Scenario:
    """A step is made anew and something is killed meanwhile."""
    words = {"kernel": "its kernel died", "papermill": "Killed|Error 137", "inner make": "Killed|Error 137"}
    return Scenario(
        f"kill -9 {victim}",
        f"{step}: {moment}",
        kill(victim, pattern, count),
        stale=(step,),
        said=said or words.get(victim, ""),
        reruns=(step,),
    )


def damaged(what: str, step: str, *names: str) -> Scenario:
    """A file of the finished run is cut in half."""
    return Scenario(f"truncated {what}", step, truncate(*names), reruns=(step,))


DAY_S = 86400.0
SCENARIOS = (
    Scenario(
        "many times kill -9",
        "from an empty folder",
        many_kills(  # none is over when its turn comes: from the models on, each needs the one before
            ("outer make", "simulated/smoke/acute/*_dsc.nii.gz", 3),
            ("papermill", "oracle/smoke/pegasus/*.nii.gz", 2),
            ("kernel", "preprocessed/smoke/acute/*_qc.json", 2),
            ("inner make", "models/acute_*/checkpoint", 4),
            ("kernel", "predictions/*/*.nii.gz", 5),
            ("outer make", "tables/table1.md", 1),
            ("papermill", "figures/ceiling.pdf", 1),
            ("manifest writer", "manifest.json", 1),
        ),
    ),
    killed("papermill", "00-simulate-pegasus", "second DSC series", "simulated/smoke/pegasus/*_dsc.nii.gz", 2),
    killed("kernel", "00-simulate-pegasus", "seventh map of the oracle", "oracle/smoke/pegasus/*.nii.gz", 7),
    killed("kernel", "01-preprocess-pegasus", "a patient complete", "preprocessed/smoke/pegasus/*_qc.json"),
    killed("outer make", "01-preprocess-pegasus", "fifth volume", "preprocessed/smoke/pegasus/*.nii.gz", 5),
    killed("inner make", "02-train-acute-tmax", "first checkpoint", "acute_tmax/checkpoint"),
    killed("papermill", "02-train-acute-cbf", "second checkpoint", "acute_cbf/checkpoint", 2),
    killed("kernel", "02-train-pegasus-tmax", "last of the results", "pegasus_tmax/generator.safetensors"),
    killed("outer make", "03-evaluate-acute-tmax", "second prediction", "predictions/acute/*_tmax.nii.gz", 2),
    killed("kernel", "03-evaluate-pegasus-mtt", "metrics", "metrics/pegasus_mtt.csv"),
    killed("papermill", "12-rating", "fifth file for the rater", "rating/maps/*.nii.gz", 5),
    killed("inner make", "04-dice", "its table", "tables/dice.csv"),
    killed("outer make", "05-table1", "Table 1", "tables/table1.md"),
    killed("papermill", "06-figure1", "the figure", "figures/figure1.png"),
    killed("papermill", "09-figure4", "executed notebook, by papermill itself", "notebooks/09-figure4.ipynb"),
    killed("papermill", "13-baselines", "stamp, by papermill itself", ".stamps/13-baselines.json"),
    killed("inner make", "14-lesions", "stamp", ".stamps/14-lesions.json"),
    Scenario(
        "kill -9 manifest writer",
        "manifest",
        kill("manifest writer", "manifest.json"),
        stale=("12-rating",),
        said="Killed|Error 137",
    ),
    Scenario(
        "truncated checkpoint",
        "02-train-pegasus-ttp",
        truncate_checkpoint,
        stale=("02-train-pegasus-ttp",),
        said="checkpoint: damaged .* remove .*checkpoint to train from the start",
        reruns=("02-train-pegasus-ttp",),
    ),
    damaged("weights", "02-train-pegasus-cbv", "models/pegasus_cbv/generator.safetensors"),
    damaged("prediction", "03-evaluate-acute-ttp", "predictions/acute/sub-0005_ttp.nii.gz"),
    damaged("metrics file", "03-evaluate-pegasus-cbf", "metrics/pegasus_cbf.csv"),
    damaged("stamp", "05-table1", ".stamps/05-table1.json"),
    damaged("executed notebook", "07-figure2", "notebooks/07-figure2.ipynb"),
    Scenario("truncated manifest", "manifest", truncate("manifest.json")),
    Scenario(
        "results read-only",
        "08-figure3",
        read_only,
        stale=("08-figure3",),
        said="Permission denied.* give yourself the right to write there|cannot be written .* make room there",
        reruns=("08-figure3",),
    ),
    Scenario(
        "disk full",
        "01-preprocess-pegasus",
        full_disk("data/preprocessed", room_kb=150),
        stale=("01-preprocess-pegasus",),
        said="cannot be written",
        reruns=("01-preprocess-pegasus",),
    ),
    Scenario(
        "disk full",
        "09-figure4",
        full_disk("results/smoke", room_kb=60),
        stale=("09-figure4",),
        said="cannot be written|No space left|File too large",
        reruns=("09-figure4",),
    ),
    Scenario("clock set back", "a day, after a finished run", set_clock(DAY_S)),
    Scenario("clock set back", "a day, 04-dice unmade", set_clock(DAY_S), stale=("04-dice",), reruns=("04-dice",)),
    Scenario("clock set forward", "50 years, after a finished run", set_clock(-50 * 365 * DAY_S)),
    Scenario("fresh checkout", "all files written anew, in another order", write_anew),
    Scenario(
        "two makes at once",
        "11-distributions",
        two_makes,
        stale=("11-distributions",),
        said="another make works in this results folder",
    ),
)


# --- the matrix -------------------------------------------------------------------------------------------------------


def verdict_of(row: Row) -> str:
    """How a row ended."""
    return f"NOT DONE: {row.unavailable}" if row.unavailable else f"FAILED: {row.problem}" if row.problem else "ok"


def table(rows: list[Row]) -> str:
    """The matrix as text."""
    head = ("fault", "where and when", "make said", "rerun", "identical", "left over", "")
    cells = [head]
    for row in rows:
        cells.append(
            (
                f"{row.scenario.fault}{row.note}",
                row.scenario.moment,
                row.said if len(row.said) < 88 else f"{row.said[:85]}...",
                ", ".join(row.reran) or "nothing",
                row.identical,
                ", ".join(row.left) or "nothing",
                verdict_of(row),
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(head) - 1)]
    return "\n".join(
        " | ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in cells
    )


@contextlib.contextmanager
def ending(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Begin no further row once one broke or Ctrl-C was pressed."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix; 1 if a row fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="pattern of the rows to run, for example 'disk|clock'")
    parser.add_argument("--base", type=Path, help="a checkout with a finished smoke run; by default one is made")
    found = parser.parse_args(arguments)
    if not Path("/proc/self/environ").exists():
        print("error: left-over processes are sought in /proc; run this on Linux", file=sys.stderr)
        return 1
    chosen = [row for row in SCENARIOS if re.search(found.only, f"{row.fault} {row.moment}")]
    if not chosen:
        print(f"error: no row is called '{found.only}'; the rows are in {__file__}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidy up as after Ctrl-C
    began, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="chaos-"))  # short: names of sockets are
    try:
        base = found.base or check_out(work / "tof2perf")
        if not found.base:
            print("the undisturbed run ...", flush=True)
            done = make(base, "paper", f"-j{os.cpu_count()}")
            if done.returncode:
                print(f"error: the undisturbed run failed: {in_short(done.stdout + done.stderr, base)}")
                return 1
        print(f"{len(chosen)} faults, two at a time, after {time.monotonic() - began:.0f} s", flush=True)
        rows: dict[Scenario, Row] = {}
        with ThreadPoolExecutor(2) as pool, ending(pool):
            played = {pool.submit(play, row, base, work / f"{number:02}"): row for number, row in enumerate(chosen)}
            for future in as_completed(played):
                row = rows[played[future]] = future.result()
                print(
                    f"{len(rows):2}/{len(chosen)}  {row.scenario.fault}, {row.scenario.moment}: {verdict_of(row)}",
                    flush=True,
                )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    failed = sum(bool(row.problem) for row in rows.values())
    missing = sum(bool(row.unavailable) for row in rows.values())
    print(f"\n{table([rows[row] for row in chosen])}\n")
    print(
        f"{len(chosen) - failed - missing} of {len(chosen)} faults are recovered from, {failed} are not, "
        f"{missing} could not be made here; {time.monotonic() - began:.0f} s"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
