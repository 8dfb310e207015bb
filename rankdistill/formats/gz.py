"""Files that may be gzip: opened by their name, with an error that says so where an archive is torn; and written whole."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from rankdistill.errors import BadDataError

__all__ = ["opened", "replacing"]


@contextmanager
def opened(
    path: str | os.PathLike[str], *, noun: str = "archive", remedy: str = "fetch the file again"
) -> Iterator[IO[bytes]]:
    """The file for reading, decompressed if its name ends in `.gz`.

    Raises:
        BadDataError: inside the block, where a gzip `noun` is torn or none.
    """
    name = os.fspath(path)
    try:
        with gzip.open(path, "rb") if name.endswith(".gz") else open(path, "rb") as file:
            yield cast("IO[bytes]", file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadDataError(f"a whole gzip {noun}", str(error), remedy, name) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that takes its name only when all of it is written, so that a torn one is never found under it; gzip for `.gz`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of one target apart; the suffix decides about gzip, so it stays the last.
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        with open(temporary, "wb") as file:
            if target.suffix == ".gz":
                # Without time and name in its header: the same content gives the same bytes.
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
