"""Files of lines: opened as UTF-8 without its byte order mark, gzip by their name, torn archives refused; and written whole."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rankdistill.errors import BadDataError

__all__ = ["BYTE_ORDER_MARK", "after_mark", "opened", "replacing", "text_lines"]

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
