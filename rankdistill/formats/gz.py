"""Files that may be gzip: opened by their name, with an error that says so where an archive is torn."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from rankdistill.errors import BadDataError

__all__ = ["opened"]


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
