"""Whether a file of the run was made from the present images, settings and code: then it is not made again."""

import json
from collections.abc import Iterable
from pathlib import Path

from tof2perf.system.codebase import code_digest
from tof2perf.system.files import digest, file_digest


def fingerprint(module: str, sources: Iterable[Path], *settings: object) -> str:
    """Return a digest of all that a result depends on.

    Args:
        module: dotted name of the module that makes it; what it imports counts as well.
        sources: images it is made from, in a fixed order.
        settings: anything that JSON can hold.
    """
    return digest("".join([json.dumps(settings, sort_keys=True), code_digest(module), *map(file_digest, sources)]))


def is_made(key: Path, made_from: str, outputs: Iterable[Path]) -> bool:
    """Whether the file ``key`` holds the digest ``made_from`` and every output is a file of its own."""
    try:
        same = key.read_text(encoding="utf-8") == made_from
    except (OSError, ValueError):
        return False
    return same and all(path.is_file() and not path.is_symlink() for path in outputs)
