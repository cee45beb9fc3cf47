"""The paper through a real Slurm: the same numbers, and no job left over however make ends.

Where Slurm is not installed these tests are skipped by name; continuous integration installs it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slurm
from helpers.miniature import check_out, command, copy_run, make, outside_make

pytestmark = pytest.mark.slow
LAUNCHER = "srun -q -n1"
PATIENCE_S = 400.0  # what is waited for takes seconds on a quiet machine


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    """Environment of a running Slurm; skipped without one, but not in continuous integration."""
    if (reason := slurm.lacking()) and not os.environ.get("CI"):
        pytest.skip(reason)
    folder = Path(tmp_path_factory.mktemp("s"))
    with slurm.cluster(folder / "slurm") as environment:
        yield environment


def jobs(queue) -> list[str]:
    """Names of the jobs in the queue."""
    listed = subprocess.run(["squeue", "-h", "-o", "%j"], env=queue, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def wait(true, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def forget(folder: Path, *steps: str) -> None:
    """Let steps look as if they had never run: no stamp, and none of their results."""
    for step in steps:
        stamp = folder / "results" / "smoke" / ".stamps" / f"{step}.json"
        for path in json.loads(stamp.read_text())["outputs"]:
            (folder / path).unlink()
        stamp.unlink()


def numbers(folder: Path) -> dict[str, bytes]:
    """Every table, metric and prediction, and what the weights hold."""
    results = folder / "results" / "smoke"
    patterns = ("tables/*", "metrics/*", "predictions/*/*", "models/*/*.safetensors", "models/*/history.csv")
    return {str(path.relative_to(results)): path.read_bytes() for pattern in patterns for path in results.glob(pattern)}


def processes(folder: Path) -> list[str]:
    """Command lines of living processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if (entry / "cwd").resolve().is_relative_to(folder) or str(folder) in words:
                found.append(words)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def copy(smoke_run, tmp_path_factory) -> Path:
    """A checkout with a finished smoke run, for these tests to change."""
    return copy_run(smoke_run, tmp_path_factory.mktemp("slurm") / "tof2perf")


def start(folder: Path, queue: dict[str, str], *words: str) -> subprocess.Popen:
    """Start make in a process group of its own, as a terminal does."""
    environment = outside_make() | {"SLURM_CONF": queue["SLURM_CONF"], "PATH": queue["PATH"]}
    return subprocess.Popen(
        command(*words, f"RUN={LAUNCHER}"),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if pytest runs in the background
    )


def test_the_paper_through_srun_gives_the_local_numbers(queue, smoke_run, tmp_path):
    """Each heavy notebook is a job, light notebooks stay here."""
    folder = check_out(tmp_path / "tof2perf")
    process = start(folder, queue, "-j4", "paper")
    out, _ = process.communicate()
    assert process.returncode == 0, out[-3000:]
    assert numbers(folder) == numbers(smoke_run)
    for path in (smoke_run / "results" / "smoke" / "notebooks").glob("*.ipynb"):
        assert (folder / "results" / "smoke" / "notebooks" / path.name).read_bytes() == path.read_bytes(), path.name
    assert jobs(queue) == []


def test_a_cancelled_job_is_named_and_a_rerun_completes(queue, copy, smoke_run):
    forget(copy, "02-train-acute-tmax")
    process = start(copy, queue, "-j4", "paper")
    wait(lambda: "02-train-acute-tmax" in jobs(queue), "the job of the training")
    wait(lambda: (copy / "results/smoke/.stamps/02-train-acute-tmax.started").exists(), "its beginning")
    subprocess.run(["scancel", "--name", "02-train-acute-tmax"], env=queue, check=True)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "error: 02-train-acute-tmax: stopped" in out and "run make again" in out, out
    wait(lambda: jobs(queue) == [] and processes(copy) == [], "the end of all jobs and processes")
    assert make(copy, "paper").returncode == 0
    assert numbers(copy) == numbers(smoke_run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_leaves_no_job_and_no_process(queue, copy, smoke_run, number):
    """Ctrl-C reaches all that a terminal runs; SIGTERM, as from a batch system, make alone."""
    forget(copy, "02-train-acute-cbf", "02-train-acute-cbv")
    process = start(copy, queue, "-j4", "paper")
    wait(lambda: {"02-train-acute-cbf", "02-train-acute-cbv"} <= set(jobs(queue)), "both jobs")
    wait(lambda: (copy / "results/smoke/.stamps/02-train-acute-cbf.started").exists(), "the beginning of one")
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    wait(lambda: jobs(queue) == [], "an empty queue")
    wait(lambda: processes(copy) == [], "the end of all processes")
    assert make(copy, "paper").returncode == 0
    assert numbers(copy) == numbers(smoke_run)


def test_a_step_that_is_killed_takes_its_job_along(queue, copy):
    """kill -9 leaves the step no time to end its job: the system has to tell srun."""
    forget(copy, "03-evaluate-acute-mtt")
    process = start(copy, queue, "paper")
    wait(lambda: "03-evaluate-acute-mtt" in jobs(queue), "the job")
    runner = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"03-evaluate-acute-mtt" in (words := path.read_bytes()) and b"python" in words and b"--in-job" not in words
    ]
    for number in runner:
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    wait(lambda: jobs(queue) == [], "an empty queue")
    wait(lambda: processes(copy) == [], "the end of all processes")


def test_each_job_has_a_device_of_its_own(queue, tmp_path):
    """Two stand-ins for GPUs, three jobs at once: two differ, the third waits."""
    script = (
        "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], time.time()); time.sleep(1.5); print(time.time())"
    )
    words = [*LAUNCHER.split(), "--gres=gpu:1", sys.executable, "-c", script]
    started = [subprocess.Popen(words, env=queue, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = []
    for process in started:
        first, last = process.communicate(timeout=PATIENCE_S)[0].splitlines()
        device, begun = first.split()
        found.append((float(begun), float(last), device))
    one, two, three = sorted(found)
    assert {one[2], two[2]} == {"0", "1"} and three[2] in {"0", "1"}
    assert two[0] < one[1] and three[0] >= min(one[1], two[1])


def test_the_whole_paper_may_be_a_batch_job_that_starts_jobs(queue, copy):
    """A small job drives make; what it starts are jobs of their own, not steps inside its single core."""
    forget(copy, "03-evaluate-acute-tmax")
    words = " ".join(f"'{word}'" for word in command("paper", f"RUN={LAUNCHER}"))
    alone = f"env -i HOME=$HOME PATH=$PATH SLURM_CONF={queue['SLURM_CONF']}"
    submitted = ["sbatch", "--wait", "-n1", "-c1", f"--output={copy}/paper.log", "--wrap", f"{alone} {words}"]
    environment = outside_make() | {"SLURM_CONF": queue["SLURM_CONF"], "PATH": queue["PATH"]}
    subprocess.run(submitted, cwd=copy, env=environment, capture_output=True, timeout=PATIENCE_S)
    log = (copy / "paper.log").read_text()
    assert "03-evaluate-acute-tmax ..." in log and "paper: up to date" in log, log
