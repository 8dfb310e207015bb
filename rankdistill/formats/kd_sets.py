"""Distillation sets as other packages publish them, as JSON lines (plain or gzip) or parquet.

- `hf-margin`: query_id, positive_id, negative_id (strings), score (float64), the margin: `bert-ensemble-margin-mse` of
  `sentence-transformers/msmarco`;
- `pylate`: query_id (string), document_ids (strings), scores (float32), the relevant doc first: `lightonai/ms-marco-en-bge`;
- `hard-negatives`: `{"qid", "pos": [{"pid", "ce-score"}, …], "neg": {system: [{"pid", "ce-score"}, …]}}`, JSON lines only: the
  scored form of sentence-transformers' `msmarco-hard-negatives` (sbert.net/datasets). Its later form without scores, which stand
  in a pickle beside it, is refused.
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rankdistill.errors import BadDataError, MissingDependencyError
from rankdistill.formats.gz import opened
from rankdistill.formats.json_lines import json_value
from rankdistill.formats.writing import replacing

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["KD_FORMATS", "KdFormat", "KdWriter", "ScoredRow", "kd_format", "read_kd"]

KdFormat: TypeAlias = Literal["hf-margin", "pylate", "hard-negatives"]
KD_FORMATS: tuple[KdFormat, ...] = ("hf-margin", "pylate", "hard-negatives")

ScoredRow: TypeAlias = tuple[str, Sequence[tuple[str, float]]]
"""query_id, [(doc_id, score), …], the positive first; a margin m is (m, 0)."""

_CHUNK = 1 << 14
_COLUMNS: dict[KdFormat, tuple[str, ...]] = {
    "hf-margin": ("query_id", "positive_id", "negative_id", "score"),
    "pylate": ("query_id", "document_ids", "scores"),
    "hard-negatives": ("qid", "pos", "neg"),
}


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow, to read and write parquet", "no package of that name", "pip install 'rankdistill[parquet]'"
        ) from error
    return pyarrow


def _magic(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def _open_lines(path: str) -> AbstractContextManager[IO[bytes]]:
    return opened(path, packed=_magic(path)[:2] == b"\x1f\x8b")


def kd_format(path: str) -> KdFormat | None:
    """Which of these formats a file has, told by its columns or its first line's keys; None for any other file.

    Raises:
        BadDataError: for a parquet file, or a line that is a JSON object, with other columns.
        MissingDependencyError: for parquet without pyarrow.
    """
    if path == "-" or not os.path.isfile(path):
        return None
    if _magic(path) == b"PAR1":
        names = set(_pyarrow().parquet.read_schema(path).names)
    else:
        with _open_lines(path) as lines:
            first = next((line for line in lines if line.strip()), b"")
        if not first.lstrip().startswith(b"{"):
            return None
        names = set(_object(first, path, 1))
    for format, columns in _COLUMNS.items():
        if names.issuperset(columns):
            return format
    expected = "; or ".join(", ".join(columns) for columns in _COLUMNS.values())
    raise BadDataError(f"the columns {expected}", ", ".join(sorted(names)) or "none", "rename the columns", path)


def _object(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        record = json_value(line)
    except ValueError as error:
        record = f"{line[:60]!r} ({error})"
    if not isinstance(record, dict):
        raise BadDataError("a JSON object a line", str(record), "correct the line", path, number)
    return record


def _records(path: str, format: KdFormat) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's number (of the line, in JSON), from 1, and its columns."""
    if _magic(path) != b"PAR1":
        with _open_lines(path) as lines:
            yield from ((number, _object(line, path, number)) for number, line in enumerate(lines, 1) if line.strip())
        return
    number = 0
    names = _COLUMNS[format]
    for batch in _pyarrow().parquet.ParquetFile(path).iter_batches(_CHUNK, columns=list(names)):
        for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            number += 1
            yield number, dict(zip(names, values, strict=True))


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{value!r} as an id")
    return str(value)


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} as a score")
    return float(value)


def _list(value: object) -> list[Any]:
    # Some sets have lists written out in strings.
    value = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} as a list")
    return list(value)


def _scored(items: list[Any]) -> dict[str, float]:
    if any(not isinstance(item, dict) for item in items):
        raise ValueError(f"{items[0]!r} as a scored doc; docs without scores can be scored with `rankdistill score`")
    return {_id(item["pid"]): _score(item["ce-score"]) for item in items}


def _rows(record: dict[str, Any], format: KdFormat) -> list[ScoredRow]:
    """The rows of one line: one, but for hard negatives one a positive."""
    if format == "hf-margin":
        query, positive, negative = (_id(record[name]) for name in _COLUMNS[format][:3])
        return [(query, [(positive, _score(record["score"])), (negative, 0.0)])]
    if format == "pylate":
        docs, scores = _list(record["document_ids"]), _list(record["scores"])
        if len(docs) != len(scores) or len(docs) < 2:
            raise ValueError(f"{len(docs)} documents and {len(scores)} scores")
        return [(_id(record["query_id"]), [(_id(doc), _score(score)) for doc, score in zip(docs, scores, strict=True)])]
    query, positives = _id(record["qid"]), _scored(record["pos"])
    negatives: dict[str, float] = {}
    for items in record["neg"].values():
        negatives |= {doc: score for doc, score in _scored(items).items() if doc not in negatives}
    return [(query, [positive, *negatives.items()]) for positive in positives.items()] if negatives else []


def read_kd(path: str, format: KdFormat) -> Iterator[list[ScoredRow]]:
    """Rows of a published set, in chunks; hard negatives give a row for each positive, with all systems' negatives, each once.

    Raises:
        BadDataError: for a row that lacks a column, an id, or a finite score, or holds a doc twice; with its line, or row in
            parquet.
    """
    chunk: list[ScoredRow] = []
    for number, record in _records(path, format):
        try:
            rows = _rows(record, format)
        except (KeyError, ValueError, TypeError, SyntaxError, AttributeError, RecursionError, MemoryError) as error:
            expected = f"{', '.join(_COLUMNS[format])} of the format {format}"
            raise BadDataError(expected, str(error), "correct the row", path, number) from error
        for query, docs in rows:
            if len({doc for doc, _ in docs}) < len(docs):
                found = f"one twice (query {query!r})"
                raise BadDataError("different docs in a row", found, "leave the repeated doc out", path, number)
        chunk += rows
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class KdWriter:
    """Writes a set in a published format, whole or not at all: a context manager.

    Args:
        path: ending in .parquet, .jsonl or .jsonl.gz.
        format: hard negatives are JSON lines only.
        like: the sources, as for `writing.replacing`.

    Raises:
        ValueError: for another ending.
        MissingDependencyError: for parquet without pyarrow.
    """

    def __init__(
        self, path: str | os.PathLike[str], format: KdFormat, *, like: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self._path, self._format, self._like = Path(path), format, like
        self._parquet = self._path.suffix == ".parquet"
        if not self._parquet and not self._path.name.endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"expected an output that ends in .parquet, .jsonl or .jsonl.gz, found {self._path.name}")
        if self._parquet and format == "hard-negatives":
            raise ValueError("expected an output that ends in .jsonl or .jsonl.gz for hard-negatives, found .parquet")
        self._arrow: Any = _pyarrow() if self._parquet else None
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(replacing(self._path, like=self._like, level=6))
            if self._parquet:
                self._file = stack.enter_context(self._arrow.parquet.ParquetWriter(self._file, self._schema()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _schema(self) -> Any:
        pa = self._arrow
        if self._format == "pylate":
            types = [pa.string(), pa.list_(pa.string()), pa.list_(pa.float32())]
        else:
            types = [pa.string(), pa.string(), pa.string(), pa.float64()]
        return pa.schema(list(zip(_COLUMNS[self._format], types, strict=True)))

    def _write(self, columns: dict[str, Sequence[Any]]) -> None:
        if self._parquet:
            self._file.write_table(self._arrow.Table.from_pydict(columns, schema=self._schema()))
            return
        rows = zip(*columns.values(), strict=True)
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        self._file.write("".join(lines).encode())

    def write(self, rows: Sequence[ScoredRow]) -> None:
        """Appends rows; for `hf-margin`, of two docs, whose scores' difference is written."""
        columns: dict[str, Sequence[Any]] = {"query_id": [query for query, _ in rows]}
        if self._format == "pylate":
            columns["document_ids"] = [[doc for doc, _ in docs] for _, docs in rows]
            columns["scores"] = [_shortest([score for _, score in docs]) for _, docs in rows]
        else:
            assert self._format == "hf-margin"
            columns["positive_id"] = [docs[0][0] for _, docs in rows]
            columns["negative_id"] = [docs[1][0] for _, docs in rows]
            columns["score"] = _shortest([docs[0][1] - docs[1][1] for _, docs in rows])
        self._write(columns)

    def write_query(self, query_id: str, positives: dict[str, float], negatives: dict[str, float], system: str) -> None:
        """Appends all that is known of a query, for `hard-negatives`."""
        pos, neg = (
            [{"pid": doc, "ce-score": score} for doc, score in zip(docs, _shortest(list(docs.values())), strict=True)]
            for docs in (positives, negatives)
        )
        self._write({"qid": [query_id], "pos": [pos], "neg": [{system: neg}]})


def _shortest(scores: list[float]) -> list[float]:
    """The numbers with the fewest digits that are the same float32."""
    return [float(text) for text in np.array(scores, np.float32).astype(str)]
