"""Whether a file of the run was made from the present images, settings and code: then it is not made again."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tof2perf.system.codebase import code_digest


def fingerprint(module: str, sources: Iterable[Path], *settings: object) -> str:
    """Return a digest of all that a result depends on.

    Args:
        module: dotted name of the module that makes it; what it imports counts as well.
        sources: images it is made from, in a fixed order.
        settings: anything that JSON can hold.
    """
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    total.update(code_digest(module).encode())
    for path in sources:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def is_made(key: Path, digest: str, outputs: Iterable[Path]) -> bool:
    """Whether the digest in the file ``key`` is this one and every output is a file of its own."""
    try:
        same = key.read_text(encoding="utf-8") == digest
    except (OSError, ValueError):
        return False
    return same and all(path.is_file() and not path.is_symlink() for path in outputs)
