"""Files of lines: opened as UTF-8 without its byte order mark, gzip by their name, torn archives refused."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rankdistill.errors import BadDataError

__all__ = ["BYTE_ORDER_MARK", "after_mark", "opened", "text_lines"]

BYTE_ORDER_MARK = codecs.BOM_UTF8


@contextmanager
def opened(
    path: str | os.PathLike[str],
    *,
    packed: bool | None = None,
    noun: str = "archive",
    remedy: str = "fetch the file again",
) -> Iterator[IO[bytes]]:
    """The file for reading, decompressed, after its UTF-8 byte order mark if it begins with one.

    Args:
        packed: whether it's gzip; by default, whether its name ends in `.gz`.

    Raises:
        BadDataError: inside the block, where a gzip `noun` is torn or none.
    """
    name = os.fspath(path)
    packed = name.endswith(".gz") if packed is None else packed
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            yield after_mark(file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadDataError(f"a whole gzip {noun}", str(error), remedy, name) from error


def after_mark(file: Any) -> IO[bytes]:
    """A buffered file at its beginning, moved past the UTF-8 byte order mark if it begins with one."""
    if file.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
        file.read(len(BYTE_ORDER_MARK))
    return cast("IO[bytes]", file)


def text_lines(file: Iterable[bytes], path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line, without its end.

    Raises:
        BadDataError: for a line that isn't UTF-8.
    """
    for number, line in enumerate(file, 1):
        try:
            yield number, line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError as error:
            raise BadDataError("UTF-8", repr(line[:60]), "convert the file with iconv", str(path), number) from error
