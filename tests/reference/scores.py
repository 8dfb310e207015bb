"""Reads teacher score files the plain way: whole, line by line, with Python's own split, float and json."""

from __future__ import annotations

import codecs
import json
import re
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pyarrow

FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
WHITE_SPACE = re.compile(r"[ \t-\r]")
HEADERS = {"query_id", "query-id", "qid", "query"}


def zstd(content: bytes) -> bytes:
    """One frame."""
    frame: bytes = pyarrow.Codec("zstd").compress(content, asbytes=True)
    return frame


class Row(NamedTuple):
    query_id: str
    doc_ids: list[str]
    scores: list[float]


class Bad(Exception):
    """The argument is the kind."""


class Literal(str):
    """A JSON number or constant, as it is written."""


def nearest_f32(text: str) -> float | None:
    """The float32 nearest to a decimal number (ties to even), or None if that's no finite number."""
    if not FLOAT.fullmatch(text):
        return None
    with np.errstate(over="ignore"):
        guess = np.float32(float(text))
        if not np.isfinite(guess):
            return None
        # float(text) rounds once, float32 again: one of the neighbours may be nearer to the number itself.
        around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    around = [value for value in around if np.isfinite(value)]
    exact = Fraction(text)
    return float(min(around, key=lambda value: (abs(Fraction(float(value)) - exact), value.view(np.uint32) & 1)))


MAX_SCORE = float(np.float32(1e12))


def score(text: str) -> float:
    value = nearest_f32(text)
    if value is None or abs(value) > MAX_SCORE:
        raise Bad("score")
    return value


def json_row(text: str, num_docs: int) -> Row:
    def id_of(value: Any) -> str:
        if not isinstance(value, str) or (isinstance(value, Literal) and not re.fullmatch("-?[0-9]+", value)):
            raise Bad("json")
        value.encode()  # a lone surrogate is no text
        if not value or WHITE_SPACE.search(value):
            raise Bad("id")
        return str(value)

    try:
        parsed = json.loads(text, parse_int=Literal, parse_float=Literal, parse_constant=Literal)
        query, *docs = parsed
        if not isinstance(parsed, list) or not all(isinstance(doc, list) and len(doc) == 2 for doc in docs):
            raise Bad("json")
        if not all(isinstance(value, Literal) for _, value in docs):
            raise Bad("json")
        row = Row(id_of(query), [id_of(doc) for doc, _ in docs], [score(value) for _, value in docs])
    except (ValueError, TypeError, RecursionError):
        raise Bad("json") from None
    if len(docs) < 2 or num_docs not in (0, len(docs)):
        raise Bad("width")
    if len(set(row.doc_ids)) < len(docs):
        raise Bad("repeated")
    return row


def read_row(line: bytes, format: str, max_line_bytes: int, num_docs: int) -> Row:
    if len(line) > max_line_bytes:
        raise Bad("overlong")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Bad("utf8") from None
    if format == "nway":
        return json_row(text, num_docs)
    columns = text.split("\t")
    if len(columns) != (4 if format == "margin" else 5):
        raise Bad("columns")
    ids = columns[:3] if format == "margin" else columns[2:]
    if not all(ids) or (format != "text" and any(map(WHITE_SPACE.search, ids))):
        raise Bad("id")
    if ids[1] == ids[2]:
        raise Bad("repeated")
    scores = [score(columns[3]), 0.0] if format == "margin" else [score(columns[0]), score(columns[1])]
    return Row(ids[0], ids[1:], scores)


def read(content: bytes, format: str, max_line_bytes: int = 1 << 20) -> tuple[list[Row], list[tuple[int, str]]]:
    """The good rows, and (line, kind) of the bad ones. Empty lines at the end, and a byte order mark, are none."""
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        first = line.split(b"\t")
        if format == "margin" and number == 1 and len(first) > 1 and first[0].lower().decode("latin1") in HEADERS:
            last = first[-1].decode("latin1")
            if not FLOAT.fullmatch(last) and last.lower().lstrip("+-") not in ("inf", "infinity", "nan"):
                continue
        try:
            rows.append(read_row(line, format, max_line_bytes, len(rows[0].doc_ids) if rows else 0))
        except Bad as error:
            bad.append((number, str(error)))
    return rows, bad
