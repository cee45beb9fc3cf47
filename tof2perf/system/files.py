"""Write every file whole or not at all, keep a folder to one run, make links, hash files.

A file is written under a temporary name beside it, ``.NAME.xxxxxxxx.part``, then moved. The same content gives the same
bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_BUSY = "another run is writing here; wait until it has ended, or choose another folder"
_MAY_NOT = "give yourself the right to write there (chmod u+w), or choose another folder"
_NO_ROOM = "make room there or choose another folder"
REMEDIES = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _MAY_NOT)  # of errors of the system
REMEDIES |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _NO_ROOM)


class WriteError(OSError):
    """A result cannot be written: the disk is full, say, or another run is at work in its folder.

    The message says in one line where and what to do. What was there before is still there, and nothing half.
    """


def digest(content: bytes | str) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, however large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(folder: Path, *, busy: str = _BUSY) -> tuple[int, bool]:
    """Lock a folder for this process and those that inherit the handle; it is made if need be.

    The lock belongs to the open folder: it needs no file, and it ends with the last process that holds it, however that
    ends.

    Args:
        folder: the folder.
        busy: what the error says if another run holds it: the problem and a remedy.

    Returns:
        The open folder, which the caller closes, and whether it is locked: some network file systems know no locks.

    Raises:
        WriteError: another run holds the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _write_error(error, f"{folder}: cannot be written to") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise WriteError(f"{folder}: {busy}") from None
    except OSError:
        return handle, False
    return handle, True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to one run: a second one is refused. What a killed run left half-written in it is removed.

    Raises:
        WriteError: another run holds the folder, or it cannot be made.
    """
    handle, held = lock(folder)
    try:
        if held:
            remove_drafts([folder])
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place only if the block succeeds.

    Raises:
        WriteError: the system refused to write.
    """
    path = Path(path)
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        draft = Path(name)
        yield draft
        draft.chmod(0o644)
        os.replace(draft, path)
    except OSError as error:
        raise _write_error(error, f"{path}: cannot be written") from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def adding(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder in ``folder``, whose files move there if the block succeeds: all of them or none.

    Raises:
        WriteError: the system refused to write.
    """
    try:
        draft = tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part")
    except OSError as error:
        raise _write_error(error, f"{folder}: cannot be written to") from None
    with draft:
        yield Path(draft.name)
        for path in sorted(Path(draft.name).iterdir()):
            os.replace(path, folder / path.name)


def _write_error(error: OSError, problem: str) -> WriteError:
    remedy = REMEDIES.get(error.errno or 0, "choose another folder")
    return WriteError(f"{problem} ({error.strerror or error}); {remedy}")


def remove_drafts(paths: Iterable[Path], *, below: bool = False) -> None:
    """Remove what killed writers left half-written: of files, in folders, or ``below`` them."""
    for path in paths:
        if not path.is_dir():
            found = path.parent.glob(f".{path.name}.*.part")
        else:
            found = path.rglob(".*.part") if below else path.glob(".*.part")
        for draft in list(found):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


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
    with replacing(path) as temporary:
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
