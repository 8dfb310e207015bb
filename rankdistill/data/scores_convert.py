"""Teacher scores from one published format into another.

Formats of ours are streamed in blocks; those of other packages go row by row, 50,000 a second and more. Grouping (n-way rows of
`num_docs`, hard negatives) goes through a score store and needs 12 bytes a row; the store lies beside the output meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.data.batches import row_blocks
from rankdistill.data.scores import ScoreStore, compile_scores
from rankdistill.errors import BadDataError, MissingIdsError
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.kd_sets import KD_FORMATS, KdFormat, KdWriter, ScoredRow, kd_format, read_kd
from rankdistill.formats.scores import (
    OnBadRow,
    ScoreBlock,
    ScoreFormat,
    ScorePaths,
    ScoreReader,
    ScoreWriter,
    read_scores,
    resolve_paths,
)
from rankdistill.formats.writing import locked
from rankdistill.options.scores import ScoresConvertOptions

__all__ = ["ConvertReport", "convert_scores", "run_convert"]

Target: TypeAlias = Literal["ids", "text", "margin", "nway", "hf-margin", "pylate", "hard-negatives"]
_OURS = ("ids", "text", "margin", "nway")
_OF_TWO = ("ids", "text", "margin", "hf-margin")
"""Formats whose rows hold one negative."""


@dataclass
class ConvertReport:
    """What came of a conversion.

    Attributes:
        source: the format read.
        target: the format written.
        rows: rows (lines) written.
        counts: what was left out or changed, by what it is.
    """

    output: str
    source: str
    target: str
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int) -> None:
        """Adds to a count; nothing happened is not mentioned."""
        if number:
            self.counts[what] = self.counts.get(what, 0) + number

    def render(self) -> str:
        """Plain text: what was written, and every count."""
        lines = [f"{what}: {number:,}" for what, number in self.counts.items()]
        return "\n".join([*lines, f"{self.output}: {self.rows:,} rows ({self.target}, from {self.source})"])


def convert_scores(
    paths: ScorePaths,
    output: str | os.PathLike[str],
    to: Target,
    *,
    format: ScoreFormat | KdFormat = "auto",
    collection: str | Collection | None = None,
    num_docs: int | None = None,
    system: str = "teacher",
    on_missing: Literal["error", "skip"] = "error",
    on_bad_row: OnBadRow = "error",
    progress: bool = True,
) -> ConvertReport:
    """Writes teacher scores in another format, whole or not at all.

    Rows of N docs become N - 1 rows where the target holds one negative a row. Rows of two docs stay rows of two docs, unless
    `num_docs` asks to group them. Scores are float32 throughout.

    Args:
        paths: files of one format: ours (as for `read_scores`), or parquet or JSON lines of other packages.
        output: compressed if it ends in .gz (or .zst, for our formats); parquet if it ends in .parquet.
        to: ids, text, margin, nway; hf-margin, pylate, hard-negatives (see `rankdistill.formats.kd_sets`).
        format: the source's; "auto" looks.
        collection: where the texts are, for `to="text"`. Tabs and line ends in them become spaces.
        num_docs: for nway and pylate: all negatives of a query and positive, wherever they stand, become rows of this many
            docs, in the order of the file; a negative that repeats and what doesn't fill a row are left out and counted.
        system: for hard-negatives: what the list of negatives is called.
        on_missing: for `to="text"`: rows whose ids the collection lacks are an error, or left out and counted.
        on_bad_row: as for `read_scores`; for our formats only.
        progress: show a bar.

    Raises:
        ValueError: for a conversion that would have to invent something: pair scores out of margins, ids out of texts.
        BadDataError: for a bad row, or if no row is left.
        MissingIdsError: if the collection lacks an id and that isn't to be skipped.
        MissingDependencyError: for parquet without pyarrow.
    """
    names = resolve_paths(paths)
    source = format if format != "auto" else kd_format(names[0])
    reader = (
        None
        if source in KD_FORMATS
        else read_scores(names, format=cast(ScoreFormat, source or "auto"), on_bad_row=on_bad_row)
    )
    report = ConvertReport(str(output), cast(str, source) if reader is None else reader.format, to)
    _check(report.source, to, collection, num_docs)
    grouped = to == "hard-negatives" or num_docs is not None
    if grouped and "-" in names:
        raise ValueError("expected files, to group their rows, found standard input (-); save it to a file")
    with ExitStack() as stack:
        if grouped:
            # Beside the output, where there is room for files of this size.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".convert", dir=Path(output).absolute().parent)
            )
            store = _spooled(names, reader, report.source, Path(folder), on_bad_row, progress)
            report.count("bad rows left out", sum(store.bad_rows.values()))
            _write_groups(store, output, names, report, num_docs, system)
        elif reader is not None and to in ("ids", "margin", "nway"):
            _write_blocks(_shown(reader, progress), output, names, report)
        else:
            rows = _rows(names, reader, report.source, progress)
            _write_rows(rows, output, names, report, collection, on_missing)
    if reader is not None:
        report.count("bad rows left out", 0 if grouped else sum(reader.bad_rows.values()))
    return report


def _check(source: str, to: str, collection: object, num_docs: int | None) -> None:
    if to not in (*_OURS, *KD_FORMATS):
        raise ValueError(f"expected a target of {', '.join((*_OURS, *KD_FORMATS))}, found {to!r}")
    if source in ("margin", "hf-margin") and to not in ("margin", "hf-margin"):
        raise ValueError(f"expected margin or hf-margin as target, found {to}: a margin doesn't tell the two scores")
    if source == "text" and to != "text":
        raise ValueError(f"expected text as target, found {to}: files of texts name no ids")
    if to == "text" and source != "text" and collection is None:
        raise ValueError("expected a collection that holds the texts, found none; pass --collection")
    if num_docs is not None and (to not in ("nway", "pylate") or num_docs < 2):
        raise ValueError(f"expected num_docs of 2 or more, for nway or pylate, found {num_docs} for {to}")


def _shown(reader: ScoreReader, progress: bool) -> Iterator[ScoreBlock]:
    with tqdm(total=reader.total_bytes, desc="convert scores", unit="B", unit_scale=True, disable=not progress) as bar:
        for block in reader:
            yield block
            bar.update(reader.bytes_read - bar.n)


def _rows(names: list[str], reader: ScoreReader | None, source: str, progress: bool) -> Iterator[Sequence[ScoredRow]]:
    """Chunks of rows of any source."""
    if reader is not None:
        for block in _shown(reader, progress):
            docs = [
                zip(ids, scores, strict=True)
                for ids, scores in zip(block.doc_ids(), block.scores.tolist(), strict=True)
            ]
            yield [(query, list(pairs)) for query, pairs in zip(block.query_ids(), docs, strict=True)]
        return
    with tqdm(desc="convert scores", unit=" rows", disable=not progress) as bar:
        for name in names:
            for chunk in read_kd(name, cast(KdFormat, source)):
                yield chunk
                bar.update(len(chunk))


def _of_two(rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    return [(query, [docs[0], other]) for query, docs in rows for other in docs[1:]]


def _write_blocks(
    blocks: Iterator[ScoreBlock], output: str | os.PathLike[str], sources: list[str], report: ConvertReport
) -> None:
    """Between our own formats of ids."""
    with ScoreWriter(output, report.target, like=sources) as writer:
        for block in blocks:
            num_rows, width = block.scores.shape
            columns_RN: NDArray[np.int64] = np.arange(width)[None].repeat(num_rows, 0)
            rows = np.arange(num_rows)
            if report.target in _OF_TWO:
                rows = rows.repeat(width - 1)
                columns_RN = np.stack([np.zeros(len(rows), np.int64), columns_RN[:, 1:].reshape(-1)], axis=1)
            writer.write_block(block, rows, columns_RN, np.take_along_axis(block.scores[rows], columns_RN, 1))
        report.rows = _not_none(len(writer), report)


def _not_none(count: int, report: ConvertReport) -> int:
    if not count:
        left_out = ", ".join(f"{what}: {number:,}" for what, number in report.counts.items())
        raise BadDataError("at least one row to write", f"none ({left_out})" if left_out else "none")
    return count


def _write_rows(
    chunks: Iterator[Sequence[ScoredRow]],
    output: str | os.PathLike[str],
    sources: list[str],
    report: ConvertReport,
    collection: str | Collection | None,
    on_missing: str,
) -> None:
    texts: Collection | None = None
    if report.target == "text" and report.source != "text":
        assert collection is not None
        texts = collection if isinstance(collection, Collection) else open_collection(collection)
    with ExitStack() as stack:
        write: Callable[[Sequence[ScoredRow]], None]
        if report.target in _OURS:
            write = stack.enter_context(ScoreWriter(output, report.target, like=sources)).write_rows
        else:
            write = stack.enter_context(KdWriter(output, cast(KdFormat, report.target), like=sources)).write
        for chunk in chunks:
            rows = _of_two(chunk) if report.target in _OF_TWO else chunk
            if texts is not None:
                rows = _with_texts(rows, texts, report, on_missing)
            write(rows)
            report.rows += len(rows)
        _not_none(report.rows, report)


def _with_texts(
    rows: Sequence[ScoredRow], collection: Collection, report: ConvertReport, on_missing: str
) -> list[ScoredRow]:
    """Rows with texts in the place of ids."""
    sides = {
        "queries": [query for query, _ in rows],
        "documents": [doc for _, docs in rows for doc, _ in docs],
    }
    found = {"queries": collection.query_rows(sides["queries"]), "documents": collection.doc_rows(sides["documents"])}
    for noun, at in found.items():
        absent = np.flatnonzero(at < 0)
        if len(absent) and on_missing == "error":
            names = tuple(sides[noun][int(i)] for i in absent[:100])
            raise MissingIdsError(
                f"all {noun} of the rows in the collection {collection.name}",
                f'{len(absent):,} of {len(at):,} that are not there (first: "{names[0]}")',
                'pass --on-missing skip (on_missing="skip") to leave their rows out',
                missing=names,
            )
    docs_RN = found["documents"].reshape(len(rows), -1)
    kept = np.flatnonzero((found["queries"] >= 0) & (docs_RN >= 0).all(1))
    report.count("rows left out for ids that the collection lacks", len(rows) - len(kept))
    queries = collection.side("queries").take(found["queries"][kept])
    docs = collection.side("docs").take(docs_RN[kept].reshape(-1))
    plain = [text.translate(_SPACES) for text in (*queries, *docs)]
    report.count(
        "texts with tabs or line ends", sum(text != old for text, old in zip(plain, (*queries, *docs), strict=True))
    )
    queries, docs = plain[: len(queries)], plain[len(queries) :]
    width = docs_RN.shape[1]
    scores = [[score for _, score in rows[int(i)][1]] for i in kept]
    return [
        (query, list(zip(docs[i * width : (i + 1) * width], scores[i], strict=True))) for i, query in enumerate(queries)
    ]


_SPACES = str.maketrans("\t\n\r", "   ")


def _spooled(
    names: list[str], reader: ScoreReader | None, source: str, folder: Path, on_bad_row: OnBadRow, progress: bool
) -> ScoreStore:
    """All rows in a store."""
    if reader is not None:
        format = cast(ScoreFormat, source)
        return compile_scores(names, folder / "s.rdscores", format=format, on_bad_row=on_bad_row, progress=progress)
    with ScoreWriter(folder / "rows", "ids") as writer:
        for chunk in _rows(names, None, source, progress):
            writer.write_rows(_of_two(chunk))
    return compile_scores(folder / "rows", folder / "s.rdscores", format="ids", progress=progress)


@dataclass
class _Query:
    """A query's docs in the order of the file: each positive's score and negatives, with theirs."""

    positives: dict[int, float] = field(default_factory=dict)
    negatives: dict[int, dict[int, float]] = field(default_factory=dict)

    def add(self, docs: list[int], scores: list[float], report: ConvertReport) -> None:
        positive, *others = docs
        score = self.positives.setdefault(positive, scores[0])
        report.count("positives with several scores, of which the first was taken", int(score != scores[0]))
        known = self.negatives.setdefault(positive, {})
        for doc, score in zip(others, scores[1:], strict=True):
            report.count("negatives that repeat for their query and positive", int(doc in known))
            known.setdefault(doc, score)


def _queries(store: ScoreStore, report: ConvertReport) -> Iterator[tuple[str, _Query]]:
    """Every query with all of its rows, in the order in which queries first appear."""
    queries_R = np.empty(store.num_rows, np.uint32)
    for rows in row_blocks(store.num_rows):
        queries_R[rows] = store.gather(rows).queries
    order = np.argsort(queries_R, kind="stable")
    ends = np.cumsum(np.bincount(queries_R, minlength=store.num_queries))
    for number, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        query = _Query()
        _, docs, scores = store.gather(order[start:end])
        for row in zip(docs.tolist(), scores.tolist(), strict=True):
            query.add(*row, report)
        yield store.query_ids[number], query


def _write_groups(
    store: ScoreStore,
    output: str | os.PathLike[str],
    sources: list[str],
    report: ConvertReport,
    num_docs: int | None,
    system: str,
) -> None:
    ids = store.doc_ids
    with ExitStack() as stack:
        if report.target == "hard-negatives":
            writer = stack.enter_context(KdWriter(output, "hard-negatives", like=sources))
            for query_id, query in _queries(store, report):
                negatives: dict[int, float] = {}
                for known in query.negatives.values():
                    negatives |= {doc: score for doc, score in known.items() if doc not in negatives}
                named = [{ids[doc]: score for doc, score in docs.items()} for docs in (query.positives, negatives)]
                writer.write_query(query_id, named[0], named[1], system)
                report.rows += 1
            return
        assert num_docs is not None
        write: Callable[[Sequence[ScoredRow]], None]
        if report.target == "nway":
            write = stack.enter_context(ScoreWriter(output, "nway", like=sources)).write_rows
        else:
            write = stack.enter_context(KdWriter(output, "pylate", like=sources)).write
        for query_id, query in _queries(store, report):
            rows: list[ScoredRow] = []
            for positive, known in query.negatives.items():
                first, others = (ids[positive], query.positives[positive]), list(known.items())
                whole = len(others) - len(others) % (num_docs - 1)
                report.count("negatives that don't fill a row", len(others) - whole)
                for start in range(0, whole, num_docs - 1):
                    part = others[start : start + num_docs - 1]
                    rows.append((query_id, [first, *((ids[doc], score) for doc, score in part)]))
            write(rows)
            report.rows += len(rows)
        _not_none(report.rows, report)


def run_convert(options: ScoresConvertOptions) -> str:
    """The `rankdistill scores convert` command: converts, and says what came of it."""
    with locked(options.output):
        return convert_scores(
            options.files,
            options.output,
            options.to,
            format=options.format,
            collection=options.collection,
            num_docs=options.num_docs,
            system=options.system,
            on_missing=options.on_missing,
            on_bad_row=options.on_bad_row,
        ).render()
