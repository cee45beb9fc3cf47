"""Copies of a finished run, and what can be done to them: kill, truncate, fill the disk, set the clock back.

A moment is an event, the k-th time that a certain file is about to take its place, never a number of seconds, so that
the same things happen at the same points every time.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from helpers.miniature import command, copy_run, outside_make

from tof2perf.system.files import digest

PATIENCE_S = 60.0  # within which everything that was started has ended; generous, for it only bounds a failure
LARGE_KB = 16  # less than a volume, a figure or an executed notebook
CACHE = "torchinductor_"  # one a user, which torch makes when it trains and keeps in any case
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
        "papermill": "tof2perf.make" in text and " run " in text,
        "manifest writer": "tof2perf.make" in text and words[-1] == "manifest",
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
        temporary = (path.name for path in sorted(self.temporary.iterdir()))
        self.left += [f"tmp/{name}" for name in temporary if not name.startswith(CACHE)]
        pids = self.folder / ".chaos-pids"
        known = set(pids.read_text().split()) if pids.exists() else set()
        shared = sorted(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else []
        self.left += [str(path) for path in shared if known & set(re.split(r"[-_]", path.name))]

    def clean(self) -> None:
        """Remove the copy, whatever state it is in."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for folder in [folder for folder in mounts if folder.startswith(f"{self.home}/")]:
            subprocess.run(["umount", "--lazy", folder], check=True)
        subprocess.run(["chmod", "-R", "u+w", str(self.home)], check=True)
        shutil.rmtree(self.home)


def ran(said: str) -> tuple[str, ...]:
    """The steps that announced themselves."""
    return tuple(sorted(line.split(" ...")[0] for line in said.splitlines() if " ..." in line))


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
