"""Training triples by id: query_id, positive_id, negative_id, tab-separated, no header (MS MARCO's `qidpidtriples` form)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened, text_lines
from rankdistill.formats.writing import replacing

__all__ = ["Triple", "read_triples", "write_triples"]


class Triple(NamedTuple):
    """A query, a relevant doc and another."""

    query_id: str
    positive_id: str
    negative_id: str


def read_triples(path: str | os.PathLike[str]) -> list[Triple]:
    """Reads a file of triples, plain or .gz. Blank lines are left out.

    Raises:
        BadDataError: for a row without three non-empty columns, that isn't UTF-8, or whose negative is its positive; for a torn
            archive, or an empty file.
    """
    triples = []
    with opened(path) as file:
        for number, line in text_lines(file, path):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) != 3 or not all(columns):
                found = f"{len(columns)} ({line[:60]!r})"
                remedy = "write query_id, positive_id, negative_id"
                raise BadDataError("3 tab-separated, non-empty columns", found, remedy, str(path), number)
            if columns[1] == columns[2]:
                remedy = "leave the row out"
                raise BadDataError("a negative that isn't the positive", repr(columns[1]), remedy, str(path), number)
            triples.append(Triple(*columns))
    if not triples:
        raise BadDataError("at least one triple", "an empty file", "make triples with `rankdistill triples`", str(path))
    return triples


def write_triples(path: str | os.PathLike[str], triples: Iterable[Triple]) -> None:
    """Writes a file of triples, whole or not at all; compressed if its name ends in .gz."""
    with replacing(path) as file:
        file.writelines("\t".join(triple).encode() + b"\n" for triple in triples)
