"""Give work to another program, such as Slurm's ``srun``, and stay in command of it until it has ended."""

import contextlib
import os
import signal
import subprocess

from tof2perf.system.workers import end_with_parent_after_exec

PATIENCE_S = 20.0  # for a launcher to end its job after the first interrupt; Slurm's own patience is 5 to 30 s


class JobError(RuntimeError):
    """Work that did not end well. The message is one line, or empty where the work has said itself what went wrong."""


def launch(launcher: list[str], command: list[str], *, name: str) -> None:
    """Call a command through a launcher and wait for it; an interrupt is passed on to the job.

    Args:
        launcher: words before the command, for example ``["srun", "-q", "-n1"]``; none to call it directly.
        command: program and arguments.
        name: the job's name in Slurm's queue, and in errors.

    Raises:
        JobError: there is no such launcher, or it ended with another code than 0.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the job has ended.
    """
    environment = os.environ | {"SLURM_JOB_NAME": name}
    try:
        # A launcher whose step was killed would let its job go on; srun ends it at SIGINT alone. (Safe here: the one
        # other thread only sleeps.)
        job = subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=_listen_to_interrupts,
        )
    except OSError as error:
        raise JobError(f"{name}: {(launcher or command)[0]} cannot be started ({error.strerror}); see RUN") from None
    try:
        code = job.wait()
    except KeyboardInterrupt:
        # srun -q ends its job at the first interrupt, srun alone at the second within a second.
        for number, patience_s in ((signal.SIGINT, 1.0), (signal.SIGINT, PATIENCE_S), (signal.SIGTERM, 5.0)):
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                job.send_signal(number)
                job.wait(patience_s)
                break
        else:
            job.kill()
        raise
    if code == 1:
        raise JobError
    if code:
        ended = f"signal {-code}" if code < 0 else f"code {code}"
        raise JobError(f"{name}: stopped with {ended}, cancelled or out of time or memory; run make again to go on")


def _listen_to_interrupts() -> None:
    """In the launched process: what a shell starts in the background ignores interrupts, and so would the launcher."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent_after_exec(signal.SIGINT)


def use_the_jobs_cores() -> None:
    """Let libraries use as many threads and processes as Slurm gave this job; what make counted is another machine."""
    if cores := os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE"):
        for name in ("OMP", "MKL", "OPENBLAS"):
            os.environ[f"{name}_NUM_THREADS"] = cores
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = os.environ["LOKY_MAX_CPU_COUNT"] = cores
