"""Teacher score files: read as columns in blocks, from any position; written in the published layouts.

Formats (tab-separated, UTF-8, no quoting; plain, gzip or zstd, told by the first bytes):

- `ids`: pos_score, neg_score, query_id, pos_id, neg_id; no header (the published files of Margin-MSE);
- `text`: the same columns with texts in the place of ids;
- `margin`: query_id, positive_id, negative_id, margin; a header line is recognised;
- `nway`: one JSON list a line, `[query_id, [doc_id, score], …]` (ColBERT's form), the same number of docs in each.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankdistill import _core

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MAX_SCORE",
    "OnBadRow",
    "Position",
    "ScoreBlock",
    "ScoreFormat",
    "ScorePaths",
    "ScoreReader",
    "ScoreWriter",
    "content_fingerprint",
    "read_scores",
    "resolve_paths",
    "skips",
    "write_scores",
]

MAX_SCORE = _core.MAX_SCORE
"""The largest magnitude of a score, 1e12: with larger ones, the squared norm of a training's gradients may leave float32."""

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
        """Rows skipped so far, by kind: columns, score, id, utf8, overlong, archive, json, width, repeated."""
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
    max_score: float = MAX_SCORE,
) -> ScoreReader:
    """Reads teacher score files as blocks of columns; memory doesn't grow with the files, and the GIL is released.

    Args:
        paths: a path, a glob, "-" for standard input, or several of them, read as one file.
        format: "auto" looks at the first lines.
        on_bad_row: "skip" leaves bad rows out, counted in `bad_rows`; a damaged archive is read as far as it goes.
        block_rows: at most this many rows a block. A block doesn't reach over two files, and ends early at 4 MiB of text.
        start: where to go on: at once in a plain file, by decompressing up to there in an archive.
        max_line_bytes: longer lines are bad rows.
        max_score: rows with a score of a larger magnitude are bad rows: by default `MAX_SCORE` (1e12), beyond which gradients
            leave float32; infinity reads all that are finite.

    Raises:
        BadDataError: at a bad row (with path, line, expected, found, remedy), unless they're skipped.
        FileNotFoundError: if a file isn't there.
    """
    names = resolve_paths(paths)
    skip = skips(on_bad_row)
    core = _core.ScoreReader(
        names,
        format=format,
        skip=skip,
        block_rows=block_rows,
        max_line_bytes=max_line_bytes,
        max_score=max_score,
        start=start or Position(),
    )
    return ScoreReader(core, names)


def content_fingerprint(paths: Sequence[_Path]) -> str:
    """32 hex characters that name the content of files of any kind, whatever they are called; samples of large ones count."""
    return _core.score_fingerprint(paths)


def skips(on_bad_row: str) -> bool:
    """Whether bad rows are skipped. Raises ValueError for anything but "error" and "skip"."""
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f'expected on_bad_row="error" or "skip", found {on_bad_row!r}')
    return on_bad_row == "skip"


class ScoreWriter:
    """Writes a score file whole or not at all: a context manager, which finishes the file unless there was an error.

    Scores are written with the fewest digits that give the same float32 again. In "nway", ids that are plain decimal
    numbers are JSON numbers, as ColBERT has them.

    Args:
        path: compressed if it ends in .gz or .zst.
        format: ids, text, margin or nway.
        like: the sources: group and others may do no more with the file than with each of them.
    """

    def __init__(self, path: _Path, format: str, *, like: Sequence[_Path] = ()) -> None:
        self._core = _core.ScoreFileWriter(path, format, [*like])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._core.finish()
        else:
            self._core.abort()

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._core)

    def write_block(
        self,
        block: ScoreBlock,
        rows: NDArray[np.int64],
        columns_RN: NDArray[np.int64],
        scores_RN: NDArray[np.float32],
    ) -> None:
        """Appends R rows made of those of a block.

        Args:
            block: holds the ids.
            rows: rows of the block, [R]; a row may occur several times.
            columns_RN: which of the row's docs, the positive first.
            scores_RN: their scores; the format `margin` writes the difference of the two.

        Raises:
            ValueError: for what the format can't hold, as `write_scores`.
        """
        self._core.push_taken(block._core, rows, columns_RN, scores_RN)

    def write_rows(self, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> None:
        """Appends rows of (query_id, [(doc_id, score), …]); see `write_scores`."""
        self._core.push_rows(
            [query_id for query_id, _ in rows],
            [[doc_id for doc_id, _ in docs] for _, docs in rows],
            [[score for _, score in docs] for _, docs in rows],
        )


def write_scores(
    path: _Path,
    rows: Iterable[tuple[str, Sequence[tuple[str, float]]]],
    format: Literal["ids", "text", "margin", "nway"] = "ids",
    *,
    like: Sequence[_Path] = (),
) -> int:
    """Writes scored rows in a published layout, whole or not at all.

    Args:
        path: compressed if it ends in .gz or .zst.
        rows: (query_id, [(doc_id, score), …]), the positive first; two docs a row, except for "nway".
        format: "ids" for the 5-column form, "text" if the ids are texts, "margin" for the difference of the two scores,
            "nway" for JSON lines.
        like: the sources: group and others may do no more with the file than with each of them.

    Returns:
        The number of rows.

    Raises:
        ValueError: for a score that isn't finite or is beyond `MAX_SCORE`, an id that the layout can't hold, a row without two
            docs, or one that holds a doc twice.
    """
    if format not in ("ids", "text", "margin", "nway"):
        raise ValueError(f'expected format="ids", "text", "margin" or "nway", found {format!r}')
    rows = iter(rows)
    with ScoreWriter(path, format, like=like) as writer:
        while chunk := list(islice(rows, 4096)):
            writer.write_rows(chunk)
        return len(writer)
