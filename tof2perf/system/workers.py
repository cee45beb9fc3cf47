"""Processes that end when the one they work for has ended, however it ended."""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

POLL_S = 1.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Send this process SIGTERM as soon as ``parent`` is no longer its parent.

    kill -9 leaves no time to tell one's children, and Unix hands them to another parent without a word.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def tied() -> dict[str, Any]:
    """Options for ``joblib.Parallel``: its workers end with this process.

    Without them, the workers of a process that was killed finish what they had been given and then wait for more, some
    minutes long. At full size one could still write its patient when a later run has begun, with other settings.
    """
    return {"initializer": end_with, "initargs": (os.getpid(),)}


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
