"""Texts with ids, found by row without holding a Python object for each: the two sides of a collection.

Cost of a file of lines: 8 bytes a text for where its line begins, and about 15 to 20 beside the id's own characters for
the id table. The lines stay on disk (memory-mapped), or in one buffer where the file is small.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill._core import IdTable
from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.cache import cache_folder, fingerprint_of
from rankdistill.formats.gz import BYTE_ORDER_MARK, opened
from rankdistill.formats.writing import replacing
from rankdistill.records import Qrels, as_texts, first_with_white_space

__all__ = ["LineTexts", "MappingTexts", "ParseLine", "Parts", "Texts", "id_table", "read_lines"]

Sequence.register(IdTable)

ParseLine = Callable[[bytes], tuple[str, str]]
"""One line, without its end, to id and text; ValueError says what's wrong with it."""

_BLOCK = 2048
# Files below this are read into one buffer at each opening (about a second); of the rest the index is kept.
_IN_MEMORY_BYTES = 64 << 20
# gzip shrinks text to about a quarter.
_IN_MEMORY_GZIP_BYTES = 16 << 20
_INDEX_VERSION = 2
_NO_SPACE = "white space parts the columns of runs and qrels; change the ids"


class Texts(ABC):
    """Texts in order, each with an id.

    Attributes:
        name: where they come from, for messages.
        ids: the ids, in order; also the way from id to row.
        fingerprint: 32 hex characters that change when ids or texts do.
    """

    name: str

    @property
    @abstractmethod
    def ids(self) -> IdTable:
        """The ids, in order."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """32 hex characters that name ids and texts."""

    @abstractmethod
    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        """Texts of these rows."""

    def __len__(self) -> int:
        return len(self.ids)

    def pairs(self, start: int = 0) -> Iterator[tuple[str, str]]:
        """Id and text of every row from `start`, in order, a block at a time."""
        for first in range(start, len(self), _BLOCK):
            last = min(first + _BLOCK, len(self))
            yield from zip(self.ids[first:last], self.take(range(first, last)), strict=True)


class Parts(NamedTuple):
    """What a layout on disk gives a collection."""

    docs: Texts
    queries: Texts
    qrels: Mapping[str, Callable[[], Qrels]]


def id_table(ids: Iterable[str], name: str, *, spaced: bool = False, blocks: int = 1 << 16) -> IdTable:
    """The table of distinct ids. Raises BadDataError for one that occurs twice, or has white space if it may not be `spaced`."""
    table, block = IdTable(), list[str]()

    def flush() -> None:
        start = len(table)
        if not spaced and (at := first_with_white_space(block)) is not None:
            raise BadDataError("ids without white space", f'"{block[at]}" (entry {start + at + 1})', _NO_SPACE, name)
        if (at := table.extend(block)) is not None:
            raise BadDataError("distinct ids", f'"{block[at]}" a second time (entry {start + at + 1})', path=name)
        block.clear()

    for id_ in ids:
        block.append(id_)
        if len(block) == blocks:
            flush()
    flush()
    return table


class MappingTexts(Texts):
    """The caller's own `{id: text}`; nothing is copied but the ids.

    Raises:
        ValueError: for what is no id or no text, as `as_texts`; `any_ids` is its, too.
    """

    def __init__(self, texts: Mapping[str, str], name: str, any_ids: bool = False) -> None:
        self.name, self._texts = name, as_texts(texts, any_ids=any_ids)
        self._ids, self._fingerprint = id_table(self._texts, name, spaced=any_ids), ""

    @property
    def ids(self) -> IdTable:
        return self._ids

    @property
    def fingerprint(self) -> str:
        if not self._fingerprint:
            self._fingerprint = fingerprint_of(*(part for pair in self._texts.items() for part in pair))
        return self._fingerprint

    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        return [self._texts[self._ids[int(row)]] for row in rows]


class LineTexts(Texts):
    """Texts of a file of lines.

    Args:
        lines: the file's bytes, in memory or mapped.
        starts: where each text's line begins; blank lines have no row.
        ids: id of each row.
        parse: line -> (id, text).
    """

    def __init__(
        self,
        name: str,
        lines: bytes | mmap.mmap,
        starts: NDArray[np.int64],
        ids: IdTable,
        parse: ParseLine,
        fingerprint: str,
    ) -> None:
        self.name, self._lines, self._starts, self._ids = name, lines, starts, ids
        self._parse, self._fingerprint = parse, fingerprint

    @property
    def ids(self) -> IdTable:
        return self._ids

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        texts = []
        for start in self._starts[np.asarray(rows, np.int64)].tolist():
            end = self._lines.find(b"\n", start)
            texts.append(self._parse(self._lines[start : end if end >= 0 else None])[1])
        return texts


def read_lines(path: Path, parse: ParseLine, *, cache_dir: Path | None = None) -> LineTexts:
    """Opens a file of lines (plain or `.gz`) for access by row.

    The file is read once to find where lines begin and to check every one. Small files (64 MiB, 16 MiB of gzip) stay in
    memory; of bigger ones the index, and for gzip the extracted text, are kept in the cache until the file changes.

    Raises:
        BadDataError: for a line that `parse` refuses, an id that occurs twice, or a torn archive; with file and line.
    """
    packed, size = path.suffix == ".gz", path.stat().st_size
    if size <= (_IN_MEMORY_GZIP_BYTES if packed else _IN_MEMORY_BYTES):
        with opened(path) as whole:
            lines = whole.read()
        return LineTexts(str(path), lines, *_index(io.BytesIO(lines), parse, path))
    key = fingerprint_of(path.resolve(), size, path.stat().st_mtime_ns, getattr(parse, "__name__", ""), _INDEX_VERSION)
    folder = (cache_dir or cache_folder("collections")) / key
    folder.mkdir(parents=True, exist_ok=True)
    plain, index = path, folder / "index.npz"
    if packed:
        plain = folder / "lines"
        if not plain.exists():
            with opened(path) as source, replacing(plain, like=[path]) as out:
                shutil.copyfileobj(source, out, 1 << 20)
    with plain.open("rb") as file:
        lines_map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            parts = _load_index(index, parse)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, BadStoreError):
            parts = _index(file, parse, path)
            _save_index(index, *parts)
    return LineTexts(str(path), lines_map, *parts)


IndexParts = tuple[NDArray[np.int64], IdTable, ParseLine, str]


def _index(file: IO[bytes], parse: ParseLine, path: Path) -> IndexParts:
    """Starts of the lines, their ids, and the fingerprint of the content, in one pass."""
    starts, digest, table = list[NDArray[np.int64]](), hashlib.blake2b(digest_size=16), IdTable()
    digest.update(getattr(parse, "__name__", "").encode())
    block_ids, block_starts, block_lines = list[str](), list[int](), list[int]()

    def flush() -> None:
        if (at := first_with_white_space(block_ids)) is not None:
            raise BadDataError("ids without white space", f'"{block_ids[at]}"', _NO_SPACE, str(path), block_lines[at])
        if (at := table.extend(block_ids)) is not None:
            remedy = "ids of a collection are distinct; remove one of the lines"
            raise BadDataError("a new id", f'"{block_ids[at]}" a second time', remedy, str(path), block_lines[at])
        starts.append(np.array(block_starts, np.int64))
        for block in (block_ids, block_starts, block_lines):
            block.clear()

    start = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
    file.seek(start)
    for number, line in enumerate(file, 1):
        if not line.isspace():
            stripped = line.rstrip(b"\r\n")
            try:
                id_, _ = parse(stripped)
            except ValueError as error:
                expected, found = (
                    error.args if len(error.args) == 2 else ("a valid line", f"{stripped[:80]!r} ({error})")
                )
                raise BadDataError(expected, found, path=str(path), line=number) from error
            block_ids.append(id_)
            block_starts.append(start)
            block_lines.append(number)
        digest.update(line)
        start += len(line)
        if len(block_ids) == 1 << 16:
            flush()
    flush()
    return np.concatenate(starts), table, parse, digest.hexdigest()


def _save_index(path: Path, starts: NDArray[np.int64], ids: IdTable, _: ParseLine, fingerprint: str) -> None:
    letters, ends = ids.parts()
    with replacing(path) as file:
        np.savez(
            file, starts=starts, ids=np.frombuffer(letters, np.uint8), ends=ends, fingerprint=np.array(fingerprint)
        )


def _load_index(path: Path, parse: ParseLine) -> IndexParts:
    with np.load(path, allow_pickle=False) as saved:
        ids = IdTable.from_parts(saved["ids"].tobytes(), saved["ends"])
        if len(ids) != len(saved["starts"]):
            raise ValueError("an index whose parts differ in length")
        return saved["starts"], ids, parse, str(saved["fingerprint"])
