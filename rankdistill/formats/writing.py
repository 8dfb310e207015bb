"""Writing files and folders: each gets its name when it's whole, has one writer at a time, and is deleted only if it's ours.

A temporary file or folder lies beside its target under a random hidden name and is created exclusively. So no link that waits
there is followed, and no file of a user's is overwritten. A kill may leave such a name behind; nothing ever reads it.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar, cast

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from rankdistill.errors import InUseError

__all__ = [
    "MARK",
    "claim",
    "discard",
    "is_marked",
    "locked",
    "mark",
    "replacing",
    "replacing_folder",
    "save_array",
    "save_json",
    "save_text",
    "whole",
]

_Path: TypeAlias = str | os.PathLike[str]
_Model = TypeVar("_Model")

MARK = ".rankdistill.json"
"""The file in a folder that says that a command of ours made the folder."""

_HELD: set[tuple[Path, int]] = set()
"""Outputs that threads of this process hold the lock of."""


def mark(folder: _Path, kind: str) -> None:
    """Marks a folder as made by us, so that it may be overwritten or deleted later.

    Args:
        folder: must exist.
        kind: what the folder is ("run", say).
    """
    save_json(Path(folder) / MARK, {"kind": kind})


def is_marked(folder: _Path, kind: str) -> bool:
    """Whether `mark(folder, kind)` marked the folder."""
    try:
        stated = json.loads((Path(folder) / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and stated.get("kind") == kind


def claim(folder: _Path, kind: str) -> None:
    """Makes sure that a folder may be written: nothing is in it, or it's marked.

    Raises:
        FileExistsError: if it holds anything else.
    """
    path = Path(folder)
    # Hidden names, as of a repository, are neither read nor written by us.
    is_used = path.is_dir() and any(not name.startswith(".") for name in os.listdir(path))
    if is_used and not is_marked(path, kind):
        found = f"{path}: expected no folder, an empty one, or a {kind} of ours, found other files"
        raise FileExistsError(f"{found}; choose another folder, or move them away")


def discard(folder: _Path) -> None:
    """Deletes a folder of ours with all its files. A kill leaves the whole folder under its name, or nothing."""
    aside = _aside(Path(folder))
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing(path: _Path, *, like: Iterable[_Path] = (), level: int = 9) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name when it's whole and on the disk; gzip if the name ends in `.gz`.

    Args:
        path: the file; its folder is made. A device or a pipe is written to directly.
        like: the sources. Group and others may do no more with the file than with each of them, nor than with the file that
            is replaced. Sources that aren't files ("-") don't count.
        level: of gzip's compression.

    Raises:
        IsADirectoryError: if a folder has that name.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target}: expected the name of a file, found a folder; choose another name")
    if _is_device(target):
        with open(target, "wb") as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _create(target, _allowed((*like, target)))
    try:
        with os.fdopen(handle, "wb") as file:
            if target.suffix == ".gz":
                # Without time and name in its header: the same content gives the same bytes.
                with gzip.GzipFile("", "wb", level, file, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def save_text(path: _Path, text: str) -> None:
    """Writes a text file as `replacing` does, in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def save_json(path: _Path, value: object, indent: int | None = None, *, ensure_ascii: bool = True) -> None:
    """Writes a JSON file as `replacing` does."""
    save_text(path, json.dumps(value, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def save_array(path: _Path, array: NDArray[Any]) -> None:
    """Writes a .npy file as `replacing` does."""
    with replacing(path) as file:
        np.save(file, array)


@contextmanager
def replacing_folder(path: _Path, *, last: str) -> Iterator[Path]:
    """A folder to fill, whose files are at `path` when all of them are written.

    Where nothing is at `path`, the folder is renamed as a whole. A folder that is there keeps its other files. Those of the
    same names are deleted first, `last` before the others, and `last` comes last: a kill never leaves old beside new files.
    Its mark is there all the time.

    Args:
        path: the folder.
        last: the file without which nothing reads the folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside a folder that is there, which may be a file system of its own.
    aside = _aside(target / target.name if target.is_dir() else target)
    aside.mkdir()
    try:
        yield aside
        names = sorted((file.relative_to(aside) for file in _files(aside)), key=lambda name: (str(name) == last, name))
        names.sort(key=lambda name: str(name) != MARK)
        for name in names:
            _sync(aside / name)
        if target.is_dir():
            for name in reversed(names):
                if str(name) != MARK:
                    (target / name).unlink(missing_ok=True)
            _sync(target)
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside / name, target / name)
            _sync(target)
        else:
            os.rename(aside, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def whole(save: Callable[[_Model, str | Path], None]) -> Callable[[_Model, str | Path], None]:
    """Decorates a model's `save_pretrained`: the folder is written by `replacing_folder`, config.json last."""

    @functools.wraps(save)
    def wrapper(model: _Model, path: str | Path) -> None:
        with replacing_folder(path, last="config.json") as folder:
            save(model, folder)

    return wrapper


@contextmanager
def locked(path: _Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of an output: `.NAME.lock` beside it, which the system frees when the process ends, however it does.

    Args:
        path: the file or folder that is to be written. A thread that holds its lock, or that of a folder
            it's in, holds it already.
        wait: until another writer is done, instead of an error.

    Raises:
        InUseError: if another process or thread writes there.
    """
    target = Path(os.path.realpath(path))
    held = (target, threading.get_ident())
    if any((outer, held[1]) in _HELD for outer in (target, *target.parents)):
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent
    if target.is_dir() and not os.access(folder, os.W_OK):  # a mounted folder, say
        folder = target
    lock_path = folder / f".{target.name}.lock"
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        expected, remedy = "no other writer", "wait until it's done, or stop it"
        raise InUseError(expected, _holder(lock_path), remedy, os.fspath(path)) from None
    _HELD.add(held)
    try:
        _sign(lock_path)
        yield
    finally:
        _HELD.discard(held)
        # Before the release: a process that waits for the deleted file finds that out and opens the new one.
        with suppress(OSError):
            lock_path.unlink()
        lock.release()


def _sign(lock_path: Path) -> None:
    """Writes who holds a lock into its file."""
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
    with suppress(OSError):  # where locks are mandatory, nobody may write
        handle = os.open(lock_path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "r+", encoding="utf-8") as file:
            # On a file system without locks, filelock's own note is in the file.
            if file.read(1) in ("", "{"):
                file.seek(0)
                file.truncate()
                json.dump(facts, file)


def _holder(lock_path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(lock_path.read_text(encoding="utf-8"))
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']} ({facts['command']})"
    return "another process"


def _aside(target: Path) -> Path:
    """A random hidden name beside `target`."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")


def _create(target: Path, mode: int) -> tuple[int, Path]:
    """A new file beside `target`: its descriptor, and its path."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = _aside(target)
        with suppress(FileExistsError):
            return os.open(path, flags, mode), path


def _allowed(sources: Iterable[_Path]) -> int:
    """The mode of a new file, before the umask: what each source allows group and others."""
    mode = 0o666
    for source in sources:
        with suppress(OSError):
            mode &= stat.S_IMODE(os.stat(source).st_mode) | 0o600
    return mode


def _is_device(target: Path) -> bool:
    # What stands for standard output is a link, which must not be replaced even if it leads to a file.
    return target.exists() and (not target.is_file() or str(target.parent) in ("/dev", "/dev/fd", "/proc/self/fd"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
