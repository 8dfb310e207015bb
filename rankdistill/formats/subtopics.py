"""Judgements of subtopics: TREC qrels whose second column says which of a query's subtopics a document is judged for."""

from __future__ import annotations

import os
from collections.abc import Iterable

import ir_measures

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened
from rankdistill.records import Qrels

__all__ = ["any_relevant", "read_subtopics"]


def read_subtopics(path: str | os.PathLike[str]) -> list[ir_measures.Qrel]:
    """Reads judgements with their subtopics (ir_measures' `iteration`); none, if the second column is 0 in all lines.

    Args:
        path: TREC qrels of four columns (`query_id subtopic doc_id relevance`); gzip if its name ends in `.gz`.

    Raises:
        BadDataError: a line has another number of columns, a relevance that isn't a whole number, or invalid UTF-8; with file
            and line. Or the archive is cut off.
    """
    rows = []
    name = os.fspath(path)
    with opened(path, noun="file", remedy="fetch or write it again") as file:
        for number, line in enumerate(file, 1):
            columns = line.split()
            if not columns:
                continue
            try:
                query_id, subtopic, doc_id, relevance = (column.decode() for column in columns)
                rows.append(ir_measures.Qrel(query_id, doc_id, int(relevance), subtopic))
            except ValueError:
                layout = "4 columns in UTF-8 (query_id subtopic doc_id relevance), the last a whole number"
                raise BadDataError(layout, repr(line.decode(errors="replace").strip()[:80]), "", name, number) from None
    return rows if any(row.iteration != "0" for row in rows) else []


def any_relevant(subtopics: Iterable[ir_measures.Qrel]) -> Qrels:
    """query_id -> doc_id -> the highest relevance for any subtopic."""
    qrels: Qrels = {}
    for row in subtopics:
        judged = qrels.setdefault(row.query_id, {})
        judged[row.doc_id] = max(row.relevance, judged.get(row.doc_id, row.relevance))
    return qrels
