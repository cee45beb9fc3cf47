"""Writing: one run at a time in a folder, and every file whole or not at all.

A file is written under a temporary name, then moved; the same content gives the same bytes.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class WriteError(OSError):
    """A result cannot be written: the disk is full, say, or another run is at work in its folder.

    The message says in one line where and what to do. What was there before is still there, and nothing half.
    """


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep a folder to one run: a second one is refused. What a killed run left half-written in it is removed.

    With ``shared`` any number of runs may write at once, each its own files, and only one without it is refused.

    The lock belongs to the open folder: it needs no file, and it ends with the process, however that ends. A file
    system that knows no locks (some network ones) is written to without; every single file is still written whole.

    Raises:
        WriteError: another run holds the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriteError(
                f"{folder}: another run is writing here; wait until it has ended, or choose another folder"
            ) from None
        except OSError:
            pass
        else:
            for leftover in [] if shared else folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place only if the block succeeds."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written ({error.strerror or error}); make room there or choose another folder"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make ``target`` another name of ``source``: a symbolic link, or a hard one where there are none; never a copy.

    Raises:
        WriteError: the file system allows neither, or ``target`` is a file of its own.
    """
    source, target = Path(source).resolve(), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        if target.readlink() == source:
            return
        target.unlink()
    elif target.exists():
        if target.samefile(source):
            return
        raise WriteError(f"{target}: exists and is no link to {source}; move it away, nothing is overwritten")
    try:
        target.symlink_to(source)
    except OSError:
        try:
            os.link(source, target)
        except OSError as error:
            raise WriteError(f"{target}: cannot be linked to {source} ({error.strerror}); use another disk") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically, readable and with a newline at the end."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, frame: "pd.DataFrame", *, index: bool = False) -> None:
    """Write a table atomically: tab-separated for ``.tsv``, else comma-separated."""
    write_text(path, frame.to_csv(sep="\t" if Path(path).suffix == ".tsv" else ",", index=index, lineterminator="\n"))
