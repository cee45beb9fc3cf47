"""kill -9 of a process ends whoever works for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib

from tof2perf.system.workers import tied

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # bounds a failure; a parent is looked at every second

POOL = """
import os, time, joblib
from tof2perf.system.workers import tied
def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(3600)
joblib.Parallel(n_jobs=2, **tied())(joblib.delayed(work)(number) for number in range(2))
"""
# Begins a command, says its process id, and waits for it.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""


def alive(process: int) -> bool:
    """Whether a process runs: one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ended while its file was being read
        return False


def ends(process: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(process)


def start(*words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY)


def test_workers_end_with_the_process_they_work_for():
    parent = start(sys.executable, "-c", POOL)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(alive, workers))
    parent.kill()
    assert all(ends(worker) for worker in workers)
    parent.communicate()


def test_workers_that_are_tied_work_as_others_do():
    for jobs in (1, 2):
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            pool = joblib.Parallel(n_jobs=jobs, return_as="generator", **tied())
            assert list(pool(joblib.delayed(abs)(number) for number in (-1, 2, -3))) == [1, 2, 3]


def test_a_command_under_the_lock_ends_with_the_make_that_called_it(tmp_path):
    lock = [sys.executable, "-m", "tof2perf.make", "--root", str(tmp_path), "--profile", "tiny", "lock", "--"]
    parent = start(sys.executable, "-c", PARENT, *lock, "sh", "-c", "echo locked; read line")
    command = int(parent.stdout.readline())
    assert parent.stdout.readline() == "locked\n"
    parent.kill()
    assert ends(command)
    assert subprocess.run([*lock, "true"], cwd=REPOSITORY).returncode == 0
    parent.communicate()


def test_a_launched_job_ends_with_the_step_that_launched_it():
    code = (
        "from tof2perf.pipeline.launching import launch\n"
        "launch(['nice'], ['sh', '-c', 'echo $$; exec sleep 3600'], name='job')"
    )
    parent = start(sys.executable, "-c", code)
    job = int(parent.stdout.readline())
    parent.kill()
    assert ends(job)
    parent.communicate()


def test_a_process_is_told_to_end_when_its_parent_was_killed_and_may_tidy_up():
    code = (
        "import os, signal, sys, time; from tof2perf.system.workers import end_with\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('tidied up', flush=True) or sys.exit())\n"
        "end_with(os.getppid()); print('at work', flush=True); time.sleep(3600)"
    )
    parent = start(sys.executable, "-c", PARENT, sys.executable, "-c", code)
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "at work\n"
    os.kill(parent.pid, signal.SIGKILL)
    assert ends(child)
    assert parent.communicate()[0] == "tidied up\n"
