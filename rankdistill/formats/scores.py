"""Teacher score files: read as columns in blocks, from any position; written in the published layouts.

Formats (tab-separated, UTF-8, no quoting; plain, gzip or zstd, told by the first bytes):

- `ids`: pos_score, neg_score, query_id, pos_id, neg_id; no header (the published files of Margin-MSE);
- `text`: the same columns with texts in the place of ids;
- `margin`: query_id, positive_id, negative_id, margin; a header line is recognised;
- `nway`: one JSON list a line, `[query_id, [doc_id, score], …]` (ColBERT's form), the same number of docs in each.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankdistill import _core

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "OnBadRow",
    "Position",
    "ScoreBlock",
    "ScoreFormat",
    "ScorePaths",
    "ScoreReader",
    "read_scores",
    "resolve_paths",
    "write_scores",
]

ScoreFormat: TypeAlias = Literal["auto", "ids", "text", "margin", "nway"]
OnBadRow: TypeAlias = Literal["error", "skip"]
_Path: TypeAlias = str | os.PathLike[str]
ScorePaths: TypeAlias = _Path | Sequence[_Path]
"""A path, a glob, "-" for standard input, or several of them, read as one file."""


class Position(NamedTuple):
    """A place between two rows. Positions compare in reading order; `Position(*json.loads(json.dumps(p))) == p`.

    Attributes:
        file: which file, from 0.
        offset: byte in that file's content, after decompression.
        line: lines of that file before it.
        row: good rows before it, over all files.
        num_docs: docs a row, as the first row decided; 0 before it.
    """

    file: int = 0
    offset: int = 0
    line: int = 0
    row: int = 0
    num_docs: int = 0


class ScoreBlock:
    """Some rows as columns (read-only arrays): R rows of N docs.

    An id that is a plain decimal number is its own code. The code of any other is 2^63 plus a number that has a meaning in this
    block only; `query_ids()` and `doc_ids()` give the strings of all.
    """

    __slots__ = ("_core",)

    def __init__(self, block: _core.ScoreBlock) -> None:
        self._core = block

    def __len__(self) -> int:
        return len(self._core)

    @property
    def position(self) -> Position:
        """The place after these rows."""
        return Position(*self._core.position)

    @property
    def query_codes(self) -> NDArray[np.uint64]:
        """[R]."""
        return self._core.query_codes

    @property
    def doc_codes(self) -> NDArray[np.uint64]:
        """[R, N], the positive first."""
        return self._core.doc_codes

    @property
    def scores(self) -> NDArray[np.float32]:
        """[R, N]; a margin m is (m, 0)."""
        return self._core.scores

    def query_ids(self) -> list[str]:
        """The R query ids (texts in the format `text`)."""
        return self._core.query_ids()

    def doc_ids(self) -> list[list[str]]:
        """The N doc ids of each row."""
        return self._core.doc_ids()


class ScoreReader(Iterator[ScoreBlock]):
    """Blocks of rows of some files, one after the other; made by `read_scores`."""

    def __init__(self, reader: _core.ScoreReader, paths: list[str]) -> None:
        self._core = reader
        self.paths = paths

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ScoreBlock:
        block = self._core.next_block()
        if block is None:
            raise StopIteration
        return ScoreBlock(block)

    @property
    def format(self) -> str:
        """The format, given or found: ids, text, margin or nway."""
        return self._core.format

    @property
    def position(self) -> Position:
        """Where the next block begins."""
        return Position(*self._core.position)

    @property
    def bad_rows(self) -> dict[str, int]:
        """Rows skipped so far, by kind: columns, score, empty_id, utf8, overlong, archive, json, width."""
        return self._core.bad_rows

    @property
    def bytes_read(self) -> int:
        """Bytes read from the files, compressed as they are."""
        return self._core.bytes_read

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all files, or None where one has no size (standard input, a pipe)."""
        sizes = [os.stat(path).st_size if os.path.isfile(path) else None for path in self.paths]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def resolve_paths(paths: ScorePaths) -> list[str]:
    """The files that `paths` names, globs expanded in sorted order; a name that exists is taken as it is.

    Raises:
        FileNotFoundError: if a path isn't there or a glob matches nothing.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        name = os.path.expanduser(os.fspath(path))
        if name == "-" or os.path.exists(name):
            found.append(name)
        elif matches := sorted(glob.glob(name, recursive=True)):
            found.extend(matches)
        else:
            raise FileNotFoundError(f"expected a teacher score file, a glob of some, or -, found nothing at {name}")
    if not found:
        raise FileNotFoundError("expected at least one teacher score file, found none")
    return found


def read_scores(
    paths: ScorePaths,
    *,
    format: ScoreFormat = "auto",
    on_bad_row: OnBadRow = "error",
    block_rows: int = 65536,
    start: Position | None = None,
    max_line_bytes: int = 1 << 20,
) -> ScoreReader:
    """Reads teacher score files as blocks of columns; memory doesn't grow with the files, and the GIL is released.

    Args:
        paths: a path, a glob, "-" for standard input, or several of them, read as one file.
        format: "auto" looks at the first lines.
        on_bad_row: "skip" leaves bad rows out, counted in `bad_rows`; a damaged archive is read as far as it goes.
        block_rows: at most this many rows a block. A block doesn't reach over two files, and ends early at 4 MiB of text.
        start: where to go on: at once in a plain file, by decompressing up to there in an archive.
        max_line_bytes: longer lines are bad rows.

    Raises:
        BadDataError: at a bad row (with path, line, expected, found, remedy), unless they're skipped.
        FileNotFoundError: if a file isn't there.
    """
    names = resolve_paths(paths)
    skip = _skips(on_bad_row)
    core = _core.ScoreReader(
        names,
        format=format,
        skip=skip,
        block_rows=block_rows,
        max_line_bytes=max_line_bytes,
        start=start or Position(),
    )
    return ScoreReader(core, names)


def _skips(on_bad_row: str) -> bool:
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f'expected on_bad_row="error" or "skip", found {on_bad_row!r}')
    return on_bad_row == "skip"


class _ZstdWriter:
    """A zstd frame for each MiB or so; frames end to end are one file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._pending = file, bytearray()

    def write(self, content: bytes) -> None:
        self._pending += content
        if len(self._pending) >= 1 << 20:
            self.close()

    def close(self) -> None:
        self._file.write(_core.zstd_frame(bytes(self._pending)))
        self._pending.clear()


def _compressing(path: Path, file: IO[bytes]) -> Any:
    """Something with `write` and `close` that compresses as the path's suffix says."""
    if path.suffix == ".gz":
        # Without name and time, the same rows make the same file.
        return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
    return _ZstdWriter(file) if path.suffix == ".zst" else file


def write_scores(
    path: _Path, rows: Iterable[tuple[str, Sequence[tuple[str, float]]]], format: Literal["ids", "nway"] = "ids"
) -> int:
    """Writes scored rows in a published layout, whole or not at all.

    Scores are written with the fewest digits that give the same float32 again.

    Args:
        path: compressed if it ends in .gz or .zst.
        rows: (query_id, [(doc_id, score), …]), the positive first; two docs a row for "ids".
        format: "ids" for the 5-column form, "nway" for JSON lines.

    Returns:
        The number of rows.

    Raises:
        ValueError: for a score that isn't finite, an id that the layout can't hold, or a row without two docs for "ids".
    """
    if format not in ("ids", "nway"):
        raise ValueError(f'expected format="ids" or "nway", found {format!r}')
    line = _ids_line if format == "ids" else _nway_line
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "wb") as raw, closing(_compressing(target, raw)) as file:
            for query_id, docs in rows:
                file.write(line(query_id, docs, f"{target}:{count + 1}").encode())
                count += 1
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _shortest(score: float, where: str) -> str:
    value = np.float32(score)
    if not np.isfinite(value):
        raise ValueError(f"{where}: expected finite scores, found {score}")
    return str(value)


def _ids_line(query_id: str, docs: Sequence[tuple[str, float]], where: str) -> str:
    if len(docs) != 2:
        raise ValueError(f'{where}: expected 2 docs for format="ids", found {len(docs)}; use format="nway"')
    (positive, positive_score), (negative, negative_score) = docs
    for name in (query_id, positive, negative):
        if not name or "\t" in name or "\n" in name or name.endswith("\r"):
            raise ValueError(f'{where}: expected ids without tab and line end, found {name!r}; use format="nway"')
    scores = f"{_shortest(positive_score, where)}\t{_shortest(negative_score, where)}"
    return f"{scores}\t{query_id}\t{positive}\t{negative}\n"


def _nway_line(query_id: str, docs: Sequence[tuple[str, float]], where: str) -> str:
    if not query_id or not all(doc_id for doc_id, _ in docs):
        raise ValueError(f"{where}: expected ids of at least one character, found an empty one")

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    pairs = "".join(f", [{text(doc_id)}, {_shortest(score, where)}]" for doc_id, score in docs)
    return f"[{text(query_id)}{pairs}]\n"
