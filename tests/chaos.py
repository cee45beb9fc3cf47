"""What long runs meet, done to copies of a finished smoke run, and what the next ``make paper`` makes of it: a matrix.

``make chaos`` runs all of it. A moment is an event, the k-th time that a certain file is about to take its place, never
a number of seconds, so that every run of the matrix strikes at the same points.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from miniature import check_out, command, copy_run, make, outside_make

from tof2perf.fingerprints import digest

PATIENCE_S = 60.0  # within which everything that was started has ended; generous, for it only bounds a failure
RESULTS = ("tables", "metrics", "predictions", "figures", "models", "lesions", "rating")
FOLDERS = (*(f"results/smoke/{name}" for name in RESULTS), "data/simulated", "data/oracle", "data/preprocessed")
LARGE_KB = 16  # less than a volume, a figure or an executed notebook
MARK = "TOF2PERF_CHAOS"  # variable that every process of a scenario inherits: nothing hides from the search by it

# Python reads a module of this name before anything else: this one strikes when a file is about to take its place.
TRAP = """
import fnmatch, os, signal, time
from pathlib import Path

HERE, PATTERN, COUNT, VICTIM = Path(__file__).parent, {pattern!r}, {count}, {victim!r}
replace = os.replace
with (HERE / ".chaos-pids").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")

def matches(words):
    text, made = " ".join(words), os.path.basename(words[0]) == "make"
    return {{
        "kernel": "ipykernel_launcher" in text,
        "papermill": "tof2perf.steps" in text and " run " in text,
        "manifest writer": "tof2perf.provenance" in text,
        "inner make": made and "INSIDE=1" in words,
        "outer make": made and "INSIDE=1" not in words,
    }}[VICTIM]

def find():
    pid = os.getpid()
    while not matches((Path("/proc") / str(pid) / "cmdline").read_text().rstrip("\\0").split("\\0")):
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid

def trap(source, target, **options):
    if fnmatch.fnmatch(os.path.abspath(target), PATTERN):
        for number in range(1, COUNT + 1):
            try:
                os.close(os.open(HERE / f".chaos-{{number}}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            if number == COUNT:
                os.truncate(source, os.path.getsize(source) // 2)  # half of it had reached the disk
                os.kill(find(), signal.SIGKILL)
                time.sleep(86400)  # a step that takes a day: whoever is left must not wait for its end
            break
    return replace(source, target, **options)

os.replace = trap
"""


class Unavailable(RuntimeError):
    """This machine does not let the fault be made; the message says why."""


@dataclass
class Copy:
    """A copy of the finished run, with a folder for temporary files of its own.

    Attributes:
        base: the finished run.
        home: where the copy is made; ``home/tof2perf`` is its checkout.
        left: what was found that should not be there.
        note: how the fault differs from what was asked for.
    """

    base: Path
    home: Path
    left: list[str] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self.folder, self.temporary = self.home / "tof2perf", self.home / "tmp"
        copy_run(self.base, self.folder)
        self.temporary.mkdir()
        self.results = self.folder / "results" / "smoke"

    def start(self, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
        """Call make and do not wait; what it says goes to ``home/said``, which killed processes may hold open."""
        environment = outside_make() | {MARK: str(self.home), "TMPDIR": str(self.temporary)}
        with (self.home / "said").open("w") as said:
            streams = {"stdout": said, "stderr": subprocess.STDOUT}
            return subprocess.Popen([*prefix, *command(*words)], cwd=self.folder, env=environment, **streams)

    def make(self, *words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
        """Call make and wait for it: exit status, and what was said."""
        status = self.start(*words, prefix=prefix).wait()
        return status, (self.home / "said").read_text()

    def unmake(self, step: str) -> None:
        """Remove a step's stamp and what it made, so that it alone must run.

        Simulation and preprocessing take long: there all patients but two stay, as after an interruption.
        """
        stamp = self.results / ".stamps" / f"{step}.json"
        record = json.loads(stamp.read_text())
        made = record["outputs"]
        if step.startswith(("00", "01")):
            last = sorted({found[0] for name in made if (found := re.search(r"sub-\d+", name))})[-2:]
            made = [name for name in made if any(patient in name for patient in last)]
            stamp.with_suffix(".started").write_text(digest(json.dumps(record["inputs"], sort_keys=True)))
        for name in made:
            (self.folder / name).unlink()
        stamp.unlink()

    def processes(self) -> dict[int, str]:
        """Every process that was started for this copy or works in it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
                    places = [os.readlink(entry / link) for link in ("cwd", "root")]
                    inherited = f"{MARK}={self.home}\0".encode() in (entry / "environ").read_bytes() + b"\0"
                    if inherited or any(text.startswith(f"{self.home}/") for text in [words, *places]):
                        found[int(entry.name)] = words  # a zombie has neither words nor environment
        return found

    def settle(self) -> None:
        """Wait until everything has ended; what does not is noted and ended."""
        deadline = time.monotonic() + PATIENCE_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        for process, words in self.processes().items():
            self.left.append(f"process {' '.join(words.split()[:6])}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def disarm(self) -> None:
        """Remove the trap."""
        (self.folder / "sitecustomize.py").unlink(missing_ok=True)
        for path in self.folder.glob(".chaos-[0-9]*"):
            path.unlink()

    def look_for_leftovers(self) -> None:
        """Note temporary, lock and marker files in the copy, its temporary folder and shared memory."""
        for path in sorted(self.folder.rglob("*")):
            half = ".part" in path.name or path.suffix in (".started", ".lock")
            if half or path == self.results / "failed":
                self.left.append(str(path.relative_to(self.folder)))
        self.left += [f"tmp/{path.name}" for path in sorted(self.temporary.iterdir())]
        pids = self.folder / ".chaos-pids"
        known = set(pids.read_text().split()) if pids.exists() else set()
        shared = sorted(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else []
        self.left += [str(path) for path in shared if known & set(re.split(r"[-_]", path.name))]


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


def ran(said: str) -> tuple[str, ...]:
    """The steps that announced themselves."""
    return tuple(sorted(line.split(" ...")[0] for line in said.splitlines() if " ..." in line))


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
        for process in copy.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while subprocess.run(["umount", "-q", *mounted(home)], capture_output=True).returncode == 0 and mounted(home):
            pass
        subprocess.run(["chmod", "-R", "u+w", str(home)], check=True)
        shutil.rmtree(home)


def mounted(home: Path) -> list[str]:
    """File systems that were mounted in a folder."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{home}/")]


# --- faults -----------------------------------------------------------------------------------------------------------


def failing(copy: Copy, *, prefix: tuple[str, ...] = ()) -> str:
    """What make says in a place where it must fail."""
    status, said = copy.make("paper", prefix=prefix)
    if status == 0:
        copy.left.append("success where there must be none")
    return said


def kill(victim: str, pattern: str, count: int = 1) -> Callable[[Copy], str]:
    """kill -9, when the ``count``-th file of a pattern is half-written under its temporary name."""

    def strike(copy: Copy) -> str:
        trap = TRAP.format(pattern=f"*/{pattern}", count=count, victim=victim)
        (copy.folder / "sitecustomize.py").write_text(trap)
        said = failing(copy)
        if not (copy.folder / f".chaos-{count}").exists():
            copy.left.append("a trap that was never reached")
        return said

    return strike


def truncate(*names: str) -> Callable[[Copy], str]:
    """Cut files of the finished run in half, as a power cut may."""

    def strike(copy: Copy) -> str:
        for name in names:
            (found,) = copy.results.glob(name)
            os.truncate(found, found.stat().st_size // 2)
        return ""

    return strike


def truncate_checkpoint(copy: Copy) -> str:
    """Kill a training in its second epoch, cut its checkpoint in half, and do as make says then."""
    kill("papermill", "pegasus_ttp/discriminator.safetensors")(copy)
    copy.settle()
    copy.disarm()
    checkpoint = copy.results / "models" / "pegasus_ttp" / "checkpoint"
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    said = failing(copy)
    checkpoint.unlink()
    return said


def read_only(copy: Copy) -> str:
    """Take away the right to write into the results; root is refused only without its privilege to ignore that."""
    prefix = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    subprocess.run(["chmod", "-R", "a-w", str(copy.results)], check=True)
    try:
        probe = [*prefix, "touch", str(copy.results / "probe")]
        try:
            if subprocess.run(probe, capture_output=True).returncode == 0:
                raise Unavailable("whoever runs this may write in spite of permissions")
        except FileNotFoundError:
            raise Unavailable("root ignores permissions, and there is no setpriv to stop it") from None
        return failing(copy, prefix=prefix)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(copy.results)], check=True)


def full_disk(name: str, room_kb: int) -> Callable[[Copy], str]:
    """Put a folder on a disk of its own with little room left, and give it more afterwards.

    Where no disk may be mounted, the system is made to refuse large files, and the row says so.
    """

    def strike(copy: Copy) -> str:
        folder, aside = copy.folder / name, copy.home / "aside"
        folder.mkdir(parents=True, exist_ok=True)
        used_kb = sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*"))
        shutil.move(folder, aside)
        folder.mkdir()
        size = f"size={used_kb + room_kb}k"
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", str(folder)], capture_output=True)
            mounts = done.returncode == 0
        except FileNotFoundError:
            mounts = False
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        shutil.rmtree(aside)
        if mounts:
            said = failing(copy)
            subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
            return said
        copy.note = f"; no disk can be mounted here: files beyond {LARGE_KB} kB refused instead"
        limit = f'ulimit -f {LARGE_KB * 2}; exec "$@"'  # POSIX counts blocks of 512 bytes
        return failing(copy, prefix=("sh", "-c", limit, "sh"))

    return strike


def set_clock(seconds: float) -> Callable[[Copy], str]:
    """Give all files times that lie this far from now: what is seen after the clock was set the other way."""

    def strike(copy: Copy) -> str:
        for path in copy.folder.rglob("*"):
            facts = path.lstat()
            shifted = (facts.st_atime + seconds, max(0.0, facts.st_mtime + seconds))
            os.utime(path, shifted, follow_symlinks=False)
        return ""

    return strike


def write_anew(copy: Copy) -> str:
    """Write every file again, in another order: a fresh checkout, and results restored from somewhere."""
    for path in sorted(copy.folder.rglob("*"), reverse=True):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    return ""


def two_makes(copy: Copy) -> str:
    """Call make while another is at work."""
    first = copy.start("paper")
    said = copy.home / "said"
    while first.poll() is None and not ran(said.read_text()):
        time.sleep(0.05)
    said.rename(copy.home / "said-first")
    refused = failing(copy)
    if first.wait() != 0:
        copy.left.append("a first make that failed")
    return refused


def many_kills(*deaths: tuple[str, str, int]) -> Callable[[Copy], str]:
    """From an empty folder, make is called again and again, and killed again and again."""

    def strike(copy: Copy) -> str:
        shutil.rmtree(copy.results)
        for name in ("simulated", "oracle", "preprocessed"):
            shutil.rmtree(copy.folder / "data" / name)
        said = ""
        for victim, pattern, count in deaths:
            said += kill(victim, pattern, count)(copy)
            copy.settle()
            copy.disarm()
        return said

    return strike


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
        many_kills(
            ("outer make", "simulated/smoke/acute/*_dsc.nii.gz", 3),
            ("papermill", "oracle/smoke/pegasus/*.nii.gz", 2),
            ("kernel", "preprocessed/smoke/acute/*_qc.json", 2),
            ("inner make", "models/acute_*/checkpoint", 4),
            ("kernel", "predictions/*/*.nii.gz", 5),
            ("outer make", "tables/table1.md", 1),
            ("papermill", "figures/lesion_*.pdf", 2),
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
        said="Permission denied|cannot be written",
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
        said="another make is at work here",
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
