"""Memory of processes and of this machine."""

import os
import resource
import sys
from pathlib import Path


def peak_gb() -> float:
    """Largest resident memory of this process so far; on Linux not by getrusage, which counts the parent's as well."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    return _resident_gb(resource.RUSAGE_SELF)


def peak_of_children_gb() -> float:
    """Largest resident memory of any process that this one has waited for, such as a kernel."""
    return _resident_gb(resource.RUSAGE_CHILDREN)


def _resident_gb(whose: int) -> float:
    return resource.getrusage(whose).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9  # bytes, or KiB


def total_bytes() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
