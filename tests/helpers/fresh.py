"""What makes one process read everything again, as a new one would."""

from tof2perf.pipeline import fingerprints
from tof2perf.system import codebase


def forget() -> None:
    """What is read once a process is read again, as a new process would."""
    for remembered in (fingerprints.read_notebook, codebase.hash_small, fingerprints._yaml):
        remembered.cache_clear()
    for remembered in (codebase._imports_of, codebase.module_file, codebase.code_digest):
        remembered.cache_clear()
