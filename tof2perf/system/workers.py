"""Processes that end when the one they work for has ended, however it ended."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

POLL_S = 1.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Send this process SIGTERM as soon as ``parent`` is no longer its parent.

    kill -9 leaves no time to end one's children; the system silently gives them another parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def can_share() -> bool:
    """Whether the system lets processes work together: a read-only or absent ``/dev/shm`` does not."""
    try:
        multiprocessing.Lock()
    except (ImportError, OSError):
        return False
    return True


def one_thread_each() -> Any:
    """Let joblib start processes of one thread each inside ``with``; or none, if they cannot work together."""
    import joblib  # heavier than all else here

    return (
        joblib.parallel_config("loky", inner_max_num_threads=1) if can_share() else joblib.parallel_config("sequential")
    )


def tied() -> dict[str, Any]:
    """Options for ``joblib.Parallel``: its workers end with this process.

    Without them, the workers of a process that was killed finish what they had been given and then wait for more, some
    minutes long. At full size one could still write its patient when a later run has begun, with other settings.
    """
    return {"initializer": end_with, "initargs": (os.getpid(),)} if can_share() else {}


def side_by_side(work: Callable, items: Collection, *, title: str, jobs: int | None = None) -> list:
    """Return ``work(item)`` for each item, computed in processes of one thread each; one bar shows the progress.

    Args:
        work: a function; joblib takes closures and partial functions as well.
        items: in the order of the results.
        title: of the bar.
        jobs: number of processes; all available cores by default.
    """
    import joblib
    from tqdm.auto import tqdm

    with one_thread_each():
        pool = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator", batch_size=1, **tied())
        results = pool(joblib.delayed(work)(item) for item in items)
        return list(tqdm(results, total=len(items), desc=title, mininterval=1.0))


def end_with_parent_after_exec(number: int = signal.SIGTERM) -> None:
    """Have the system send a signal to this process when its parent ends, also after it has become another program.

    Linux only: elsewhere nothing happens. The parent must not be a thread that ends before its process.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before it could be watched
        os.kill(os.getpid(), number)
