"""Queries of one file: KILT's records, BEIR's `queries.jsonl`, or lines of an id, a tab and a text."""

from __future__ import annotations

from pathlib import Path

from rankdistill.errors import BadDataError
from rankdistill.formats.beir import jsonl
from rankdistill.formats.json_lines import first_object
from rankdistill.formats.kilt import read_distinct, source_text
from rankdistill.formats.msmarco import tsv
from rankdistill.formats.texts import read_lines
from rankdistill.records import first_with_white_space

__all__ = ["read_queries"]


def read_queries(path: str | Path, *, max_words: int = 384) -> dict[str, str]:
    """Queries by id, in the order of the file (plain or `.gz`); what the file is, its first line says.

    Args:
        max_words: of KILT's records with a mention, as for `mention_text`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a malformed line, an id that occurs twice (with file and line), or one with white space.
    """
    path = Path(path)
    row = first_object(path)
    if row is None or "_id" in row:
        return dict(read_lines(path, tsv if row is None else jsonl).pairs())
    queries = {record.id: source_text(record, max_words) for record in read_distinct(path)}
    ids = list(queries)
    if (at := first_with_white_space(ids)) is not None:
        raise BadDataError("ids without white space", f'"{ids[at]}"', "a run can't hold it; change the id", str(path))
    return queries
