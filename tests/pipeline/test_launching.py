"""Steps given to a launcher: who runs what, what becomes of failures and interrupts."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.miniature import REPOSITORY, copy_run, make

from tof2perf.pipeline.launching import JobError, launch, use_the_jobs_cores

PYTHON = [sys.executable, "-c"]


def test_a_job_is_called_through_its_launcher_and_knows_its_name(tmp_path):
    script = "import os, sys; open(sys.argv[1], 'w').write(os.environ['SLURM_JOB_NAME'] + os.environ['BY'])"
    launch(["env", "BY=env"], [*PYTHON, script, str(tmp_path / "told")], name="02-train-acute-tmax")
    assert (tmp_path / "told").read_text() == "02-train-acute-tmaxenv"


def test_a_job_that_says_itself_what_failed_is_not_talked_over():
    with pytest.raises(JobError, match=r"^$"):
        launch([], [*PYTHON, "raise SystemExit(1)"], name="step")


@pytest.mark.parametrize(
    ("end", "message"),
    [("raise SystemExit(137)", "code 137"), ("import os; os.kill(os.getpid(), 9)", "signal 9")],
)
def test_a_job_that_was_ended_is_named(end, message):
    with pytest.raises(JobError, match=rf"03-evaluate: stopped with {message}, .*run make again"):
        launch([], [*PYTHON, end], name="03-evaluate")


def test_an_unknown_launcher_is_one_line():
    with pytest.raises(JobError, match=r"step: no-such-launcher cannot be started .*see RUN"):
        launch(["no-such-launcher", "-n1"], ["true"], name="step")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_job_and_whoever_waits_for_it(tmp_path, number):
    """The job gets an interrupt, as srun wants it, whichever signal its starter got."""
    job = (
        "import sys, time; from pathlib import Path\n"
        "try: Path(sys.argv[1]).touch(); time.sleep(60)\n"
        "except KeyboardInterrupt: Path(sys.argv[2]).touch()"
    )
    waiting = (
        "import sys; from tof2perf.pipeline.launching import launch\n"
        "from tof2perf.pipeline.steps import interrupted_by_signals\n"
        "with interrupted_by_signals(): launch([], [sys.executable, '-c', *sys.argv[1:]], name='step')"
    )
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    process = subprocess.Popen(
        [*PYTHON, waiting, job, str(begun), str(ended)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if pytest runs in the background
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0 and ended.exists()


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "8"}, "4"),
        ({"SLURM_CPUS_ON_NODE": "8"}, "8"),
        ({}, "made elsewhere"),
    ],
)
def test_a_job_uses_the_cores_it_was_given(monkeypatch, variables, cores):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    counts = ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "LOKY_MAX_CPU_COUNT"]
    counts += [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS")]
    for name in counts:
        monkeypatch.setenv(name, "made elsewhere")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    use_the_jobs_cores()
    assert {os.environ[name] for name in counts} == {cores}


def test_a_fresh_step_takes_no_place_in_a_queue(smoke_run, tmp_path):
    """With a launcher that always fails, nothing fails as long as nothing must run."""
    copy = copy_run(smoke_run, tmp_path / "tof2perf")
    (copy / "results" / "smoke" / "manifest.json").unlink()  # so that make has something to do
    done = make(copy, "paper", "RUN=false")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = copy / "results" / "smoke" / "metrics" / "acute_tmax.csv"
    metrics.write_bytes(metrics.read_bytes() + b"\n")
    assert make(copy, "paper", "RUN=false").returncode != 0
