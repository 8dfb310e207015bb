"""TREC runs and qrels, and their cousins (MS MARCO's three-column run, BEIR's qrels with a header), plain or gzip.

The readers go the quick way first and look for the culprit only when something is wrong: a run of 7 million lines is
common, a broken one isn't.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any, Literal, cast

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened
from rankdistill.formats.writing import replacing
from rankdistill.records import Qrels, Run, as_grade, as_id, as_qrels, as_run, first_with_white_space, ranked

__all__ = [
    "DOC_COLUMNS",
    "GRADE_COLUMNS",
    "QUERY_COLUMNS",
    "is_quoted",
    "qrels_of",
    "read_qrels",
    "read_run",
    "write_qrels",
    "write_run",
]

_INFINITY = float("inf")
# Bigger blocks are slower: their lists push the caches out.
_BLOCK_BYTES = 1 << 16
# These part words for str.split, but not for bytes.split, nor for trec_eval.
_SEPARATORS_OF_STR_SPLIT = (b"\x1c", b"\x1d", b"\x1e", b"\x1f")
_BEIR_HEADER = [b"query-id", b"corpus-id", b"score"]
# What published qrels call their columns, in order of preference.
QUERY_COLUMNS = ("query-id", "query_id", "qid", "queryid", "query", "topic")
DOC_COLUMNS = (
    "corpus-id",
    "corpus_id",
    "document_id",
    "document-id",
    "doc_id",
    "doc-id",
    "docid",
    "docno",
    "passage_id",
    "pid",
)
GRADE_COLUMNS = ("score", "relevance", "label", "rel", "grade")
_QRELS_LAYOUT = (
    "4 columns (query_id 0 doc_id relevance), or 3 with a first line that names them (query-id corpus-id score)"
)
_COLUMN_NAMES = {*QUERY_COLUMNS, *DOC_COLUMNS, *GRADE_COLUMNS, "iteration", "iter", "q0"}


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run in one pass.

    Two layouts are told apart by the first line: TREC's six columns (`query_id Q0 doc_id rank score tag`) and MS MARCO's three
    (`query_id doc_id rank`), whose scores become `-rank`. Columns are parted by ASCII white space, as trec_eval does it; ids may
    hold any other character. Blank lines are left out. The rank column of a TREC run is ignored (as by trec_eval): scores order
    it.

    Args:
        path: a file; gzip if its name ends in `.gz`.

    Returns:
        query_id -> doc_id -> score, in the order of the file.

    Raises:
        BadDataError: a line has another number of columns, a score that isn't a finite number, invalid UTF-8, or names
            a document a second time for its query; with file and line. Or the archive is cut off.
    """
    with _open(path) as file:
        num_columns = len(next((line for line in file if line.strip()), b"").split())
    if num_columns == 0:
        return {}
    if num_columns not in (3, 6):
        raise _run_error(path, num_columns)
    try:
        run, num_rows = _read_run_quickly(path, num_columns)
    except (ValueError, OverflowError):
        raise _run_error(path, num_columns) from None
    if num_rows != sum(map(len, run.values())):
        raise _run_error(path, num_columns)
    return run


def _read_run_quickly(path: str | os.PathLike[str], num_columns: int) -> tuple[Run, int]:
    """Reads block by block, with the work per line left to C loops. Any ValueError or OverflowError means a bad line."""
    run: Run = {}
    num_rows = 0
    with _open(path) as file:
        while block := file.read(_BLOCK_BYTES):
            words = _words(block + file.readline(), num_columns)
            if num_columns == 6:
                doc_ids, scores = words[2::6], list(map(float, words[4::6]))
            else:
                doc_ids, scores = words[1::3], [-float(int(rank)) for rank in words[2::3]]
            if not all(map(math.isfinite, scores)):
                raise ValueError
            start = 0
            for query_id, group in itertools.groupby(words[::num_columns]):
                stop = start + sum(1 for _ in group)
                run.setdefault(query_id, {}).update(zip(doc_ids[start:stop], scores[start:stop], strict=True))
                start = stop
            num_rows += len(scores)
    return run, num_rows


def _words(block: bytes, num_columns: int) -> list[str]:
    """The words of whole lines, one list for all; ValueError unless every line that isn't blank has `num_columns`."""
    if block.isascii() and not any(separator in block for separator in _SEPARATORS_OF_STR_SPLIT):
        words = block.decode().split()
    else:
        words = [word.decode() for word in block.split()]
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    # The right number in sum and one word in all second columns (Q0): no line lacks what another has too many.
    plainly_right = num_columns == 6 and len(words) == 6 * num_lines and len(set(words[1::6])) == 1
    if not plainly_right and any(len(line.split()) not in (0, num_columns) for line in block.split(b"\n")):
        raise ValueError
    return words


def _run_error(path: str | os.PathLike[str], num_columns: int) -> BadDataError:
    """The error for the first bad line of a run that the quick reader gave up on."""
    name, layout = os.fspath(path), "6 columns (query_id Q0 doc_id rank score tag)"
    if num_columns == 3:
        layout = "3 columns (query_id doc_id rank)"
    elif num_columns != 6:
        layout += " or 3 (query_id doc_id rank)"
    seen: dict[tuple[bytes, bytes], int] = {}
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            columns = line.split()
            if not columns:
                continue
            if num_columns not in (3, 6) or len(columns) != num_columns:
                return BadDataError(layout, f"{len(columns)} ({_shown(line)})", _remedy(line), name, number)
            query, doc = (columns[0], columns[2]) if num_columns == 6 else (columns[0], columns[1])
            try:
                (query + doc).decode()
            except UnicodeDecodeError:
                return BadDataError("UTF-8", _shown(line), "convert the file with iconv", name, number)
            value = columns[4 if num_columns == 6 else 2]
            try:
                fine = abs(float(value if num_columns == 6 else int(value))) < _INFINITY
            except (ValueError, OverflowError):
                fine = False
            if not fine:
                what = "a finite score" if num_columns == 6 else "a whole number as rank"
                return BadDataError(what, value.decode(errors="replace"), path=name, line=number)
            if (query, doc) in seen:
                return BadDataError(
                    "each document once for a query",
                    f"document {doc.decode()} of query {query.decode()} also in line {seen[query, doc]}",
                    "keep one of them",
                    name,
                    number,
                )
            seen[query, doc] = number
    return BadDataError(layout, "a file that changed while it was read", "read it again", name)


def write_run(path: str | os.PathLike[str], run: Run, tag: str = "rankdistill") -> None:
    """Writes a TREC run of six columns, atomically; ranks count from 1 in the order of `records.ranked`.

    Scores are written so that `read_run` gives back the same floats.

    Args:
        path: the file; gzip if its name ends in `.gz`.
        run: query_id -> doc_id -> score; queries keep the dictionary's order. Ids that are whole numbers become strings.
        tag: the name of the system, without white space.

    Raises:
        ValueError: an id or the tag is empty or holds white space, or a score isn't finite.
    """
    _check_id("tag", tag)
    with replacing(path) as file:
        for query_id, scores in as_run(run).items():
            _check_id("query_id", query_id)
            lines = []
            for rank, (doc_id, score) in enumerate(ranked(scores), 1):
                _check_id("doc_id", doc_id)
                if not math.isfinite(score):
                    raise ValueError(f"expected finite scores, found {score} for query {query_id}, document {doc_id}")
                lines.append(f"{query_id} Q0 {doc_id} {rank} {score!r} {tag}\n")
            file.write("".join(lines).encode())


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Reads judgements: TREC's four columns (`query_id 0 doc_id relevance`), or columns that a first line names, as BEIR's does.

    Names are those of published qrels (`query-id`, `query_id`, `qid`; `corpus-id`, `doc_id`, `docid`; `score`, `relevance`, …), in
    any order. Columns are parted by ASCII white space; nothing is quoted. Blank lines are left out. A pair that is judged twice
    and alike counts once.

    Args:
        path: a file; gzip if its name ends in `.gz`.

    Returns:
        query_id -> doc_id -> relevance, in the order of the file.

    Raises:
        BadDataError: a line has another number of columns, a relevance that isn't a whole number (1.0 is one), invalid UTF-8, a
            quoted id, or judges a pair a second time and differently; with file and line. Or the archive is cut off.
    """
    with _open(path) as file:
        return qrels_of(_judgements(file, os.fspath(path)), os.fspath(path))


def qrels_of(rows: Iterable[tuple[int | None, Any, Any, Any]], name: str) -> Qrels:
    """Judgements by query and document.

    Args:
        rows: the line each stands in (None if there are no lines), query id, doc id and relevance.
        name: where they come from.

    Raises:
        BadDataError: for what is no id, no whole number as relevance, or a second relevance of a pair.
    """
    qrels: Qrels = {}
    grades = dict[str, int]()
    for number, query, doc, value in rows:
        try:
            query_id, doc_id = as_id(query), as_id(doc)
        except ValueError:
            found = f"{query!r} and {doc!r}"
            raise BadDataError(
                "ids of a query and a document, strings or whole numbers", found, "", name, number
            ) from None
        try:
            relevance = _grade(value, grades)
        except ValueError:
            found = f"{value!r} for query {query_id}, document {doc_id}"
            remedy = "round it by your own rule: which grades count as relevant isn't known here"
            raise BadDataError("a whole number as relevance", found, remedy, name, number) from None
        judged = qrels.setdefault(query_id, {})
        if judged.setdefault(doc_id, relevance) != relevance:
            found = f"{judged[doc_id]} and {relevance} for query {query_id}, document {doc_id}"
            raise BadDataError("one relevance for a pair", found, "keep one of them", name, number)
    return qrels


def _grade(value: Any, known: dict[str, int]) -> int:
    """`as_grade`; of words, each distinct one is looked at once."""
    if type(value) is not str:
        return as_grade(value)
    if value not in known:
        known[value] = as_grade(value)
    return known[value]


def _judgements(lines: Iterable[bytes], path: str) -> Iterator[tuple[int, str, str, str]]:
    """Line, query id, doc id and relevance of each judgement."""
    (query, doc, grade), num_columns, layout = (0, 2, 3), 4, _QRELS_LAYOUT
    is_first = True
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if not columns:
            continue
        names = [column.decode(errors="replace").lower() for column in columns] if is_first else []
        is_first = False
        if names and _COLUMN_NAMES.issuperset(names):
            found = [_place(names, kind) for kind in (QUERY_COLUMNS, DOC_COLUMNS, GRADE_COLUMNS)]
            if None in found:
                expected = "the names of three columns: query-id, corpus-id, score"
                raise BadDataError(expected, _shown(line), "name all three", path, number)
            query, doc, grade = cast("list[int]", found)
            num_columns, layout = len(names), f"{len(names)} columns ({' '.join(names)})"
            continue
        if len(columns) != num_columns:
            raise BadDataError(layout, f"{len(columns)} ({_shown(line)})", _remedy(line), path, number)
        try:
            query_id, doc_id, relevance = columns[query].decode(), columns[doc].decode(), columns[grade].decode()
        except UnicodeDecodeError:
            raise BadDataError("UTF-8", _shown(line), "convert the file with iconv", path, number) from None
        if b'"' in line and (is_quoted(query_id) or is_quoted(doc_id)):
            raise BadDataError("ids without quotes", _shown(line), "write the file without quoting", path, number)
        yield number, query_id, doc_id, relevance


def _place(names: list[str], kind: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in kind if name in names), None)


def is_quoted(id_: str) -> bool:
    """Whether an id stands in quotes, as some writers of CSV files quote all fields; no reader of these files removes them."""
    return len(id_) > 1 and id_[0] == id_[-1] == '"'


def write_qrels(path: str | os.PathLike[str], qrels: Qrels, layout: Literal["trec", "beir"] = "trec") -> None:
    """Writes judgements, atomically, in TREC's four columns or BEIR's three with a header.

    Raises:
        ValueError: an id is empty or holds white space, or a relevance isn't a whole number.
    """
    with replacing(path) as file:
        if layout == "beir":
            file.write(b"\t".join(_BEIR_HEADER) + b"\n")
        for query_id, judged in as_qrels(qrels).items():
            _check_id("query_id", query_id)
            for doc_id, relevance in judged.items():
                _check_id("doc_id", doc_id)
                columns = (
                    (query_id, doc_id, str(relevance)) if layout == "beir" else (query_id, "0", doc_id, str(relevance))
                )
                file.write(("\t".join(columns) if layout == "beir" else " ".join(columns)).encode() + b"\n")


def _open(path: str | os.PathLike[str]) -> AbstractContextManager[IO[bytes]]:
    return opened(path, noun="file", remedy="fetch or write it again")


def _check_id(what: str, value: str) -> None:
    # Other white space (a no-break space, say) is part of an id to all readers of TREC files that split as C does.
    if not value or first_with_white_space([value]) is not None:
        raise ValueError(f"expected a {what} without white space, found {value!r}; TREC files part columns by it")


def _remedy(line: bytes) -> str:
    return "part the columns with tabs or spaces, not with commas" if b"," in line else ""


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\r\n").decode(errors="replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")
