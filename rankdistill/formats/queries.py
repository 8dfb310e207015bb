"""Queries of one file: KILT's records, BEIR's `queries.jsonl`, or lines of an id, a tab and a text."""

from __future__ import annotations

import json
from pathlib import Path

from rankdistill.errors import BadDataError
from rankdistill.formats.beir import jsonl
from rankdistill.formats.gz import opened
from rankdistill.formats.kilt import read_kilt, source_text
from rankdistill.formats.msmarco import tsv
from rankdistill.formats.texts import read_lines

__all__ = ["read_queries"]


def read_queries(path: str | Path, *, max_words: int = 384) -> dict[str, str]:
    """Queries by id, in the order of the file (plain or `.gz`); what the file is, its first line says.

    Args:
        max_words: of KILT's records with a mention, as for `mention_text`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a malformed line, or an id that occurs twice; with file and line.
    """
    path = Path(path)
    with opened(path) as file:
        first = file.readline()
    try:
        row = json.loads(first)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "_id" in row:
        return dict(read_lines(path, jsonl if isinstance(row, dict) else tsv).pairs())
    queries = dict[str, str]()
    for number, record in enumerate(read_kilt(path), 1):
        if record.id in queries:
            raise BadDataError("distinct ids", f'"{record.id}" a second time', path=str(path), line=number)
        queries[record.id] = source_text(record, max_words)
    return queries
