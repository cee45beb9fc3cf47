"""Memory of this process and of this machine."""

import contextlib
import os
import sys
from pathlib import Path


def peak_gb() -> float:
    """Largest resident memory of this process so far; what Linux's getrusage says began in the parent."""
    with contextlib.suppress(OSError, StopIteration):
        return _status_gb("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def resident_gb() -> float:
    """Resident memory of this process now; where the system does not say, the largest so far."""
    with contextlib.suppress(OSError, StopIteration):
        return _status_gb("VmRSS")
    return peak_gb()


def _status_gb(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e9


def free_bytes() -> float:
    """Memory that programs may still ask for; all there is, where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    return total_bytes()


def total_bytes() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
