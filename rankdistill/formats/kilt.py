"""KILT's questions and mentions with the pages that answer them: JSON lines in and out; a mention in its context as one text."""

from __future__ import annotations

import html
import html.entities
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rankdistill.formats.json_lines import BadField, distinct, id_of, json_lines, typed
from rankdistill.formats.writing import replacing

__all__ = [
    "END_ENTITY",
    "START_ENTITY",
    "KiltOutput",
    "KiltPage",
    "KiltRecord",
    "gold_titles",
    "mention_text",
    "one_line",
    "read_distinct",
    "read_kilt",
    "source_text",
    "write_kilt",
]

START_ENTITY, END_ENTITY = "[START_ENT]", "[END_ENT]"
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")


@dataclass(frozen=True)
class KiltPage:
    """A place in Wikipedia that supports an answer (one entry of `provenance`).

    Attributes:
        title: of the page, where the file gives it; so for `wikipedia_id`.
        bleu_score: how well the page's text matches the task's own evidence; 1 where the file says nothing.
        more: the entry's other keys, as they are.
    """

    title: str | None = None
    wikipedia_id: str | None = None
    bleu_score: float = 1.0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KiltOutput:
    """One accepted answer with the pages that support it together; either may be missing.

    Attributes:
        more: its other keys, as they are.
    """

    answer: str | None = None
    provenance: tuple[KiltPage, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KiltRecord:
    """A line of a KILT file.

    Attributes:
        id: a string; numbers in the file become strings.
        input: the question, claim, dialogue, or the mention in its context.
        output: answers; none in files of test questions.
        meta: for entity disambiguation `left_context`, `mention` and `right_context`.
        candidates: titles to choose among, as GENRE's files have them; None where the file has none.
        more: other keys, as they are.
    """

    id: str
    input: str
    output: tuple[KiltOutput, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[str, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def read_kilt(path: str | os.PathLike[str]) -> Iterator[KiltRecord]:
    """The records of a file of JSON lines, plain or `.gz`; one at a time, so that the largest fits in memory.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line that isn't UTF-8 or a JSON object, or where a field is missing or of another type; a torn archive.
    """
    return json_lines(path, _record)


def read_distinct(path: str | os.PathLike[str]) -> Iterator[KiltRecord]:
    """As `read_kilt`, where each id may occur once.

    Raises:
        BadDataError: also for an id that occurs a second time.
    """
    return json_lines(path, distinct(_record))


def write_kilt(path: str | os.PathLike[str], records: Iterable[KiltRecord]) -> None:
    """Writes records as KILT has them, so that `read_kilt` gives back equal ones; atomically, gzip for `.gz`.

    Raises:
        ValueError: for what JSON doesn't have (NaN, infinity).
    """
    with replacing(path) as file:
        for record in records:
            file.write(json.dumps(_row(record), ensure_ascii=False, allow_nan=False).encode() + b"\n")


def gold_titles(record: KiltRecord, min_bleu: float = 0.5) -> list[str]:
    """The distinct titles that support an answer, in the file's order: what a model is to write.

    Args:
        min_bleu: pages that match the evidence no better are left out.
    """
    pages = (page for output in record.output for page in output.provenance)
    return list(dict.fromkeys(page.title for page in pages if page.title is not None and page.bleu_score > min_bleu))


def source_text(record: KiltRecord, max_words: int = 384) -> str:
    """What a model reads of a record: its mention in context where `meta` has one, else its input; in one line.

    Args:
        max_words: as for `mention_text`; an input without a mention isn't cut.
    """
    parts = [record.meta.get(name) for name in ("left_context", "mention", "right_context")]
    # KILT's other tasks have these three, too, empty.
    if parts[1] and all(isinstance(part, str) for part in parts):
        left, mention, right = map(str, parts)
        return mention_text(left, mention, right, max_words=max_words)
    return one_line(record.input)


def mention_text(left: str, mention: str, right: str, *, max_words: int = 384) -> str:
    """A mention between [START_ENT] and [END_ENT] in its context, in one line, HTML's entities resolved.

    Words are what white space parts. If all of them are more than `max_words`, each side gets half of that, and what one side has
    no use for goes to the other; the words next to the mention stay. The mention is never cut.

    Args:
        max_words: of the context and, where nothing is cut, of the mention with its two marks.

    Source:
        De Cao et al. 2021, arXiv:2010.00904, for the marks and the number.
    """
    before, own, after = (one_line(part).split() for part in (left, mention, right))
    if len(before) + len(own) + len(after) + 2 > max_words:
        half = max_words // 2
        from_left = min(len(before), max(half, max_words - len(after)))
        before = before[len(before) - from_left :]
        after = after[: max_words - from_left]
    return " ".join([*before, START_ENTITY, *own, END_ENTITY, *after])


def one_line(text: str) -> str:
    """Text as a model reads it: HTML's entities resolved, one space where there is white space.

    An entity ends in a semicolon: `html.unescape` alone would make "a=1©=2" of "a=1&copy=2".
    """
    return " ".join(_ENTITY.sub(_resolved, text).split())


def _resolved(entity: re.Match[str]) -> str:
    name = entity[0]
    # Of an unknown name it would resolve the beginning ("&notes;").
    return html.unescape(name) if name[1] == "#" or name[1:] in html.entities.html5 else name


def _record(row: Any) -> KiltRecord:
    if not isinstance(row, dict):
        raise BadField("a JSON object", row)
    id_ = id_of(row)
    output = typed(row, "output", list, "a list of objects", [])
    candidates = typed(row, "candidates", list, "a list of titles", None)
    if candidates is not None and not all(isinstance(title, str) for title in candidates):
        raise BadField('"candidates", a list of titles', candidates)
    text = typed(row, "input", str, "a string", None)
    if text is None:
        raise BadField('"input", a string', None)
    return KiltRecord(
        id=id_,
        input=text,
        output=tuple(map(_output, output)),
        meta=typed(row, "meta", dict, "an object", {}),
        candidates=None if candidates is None else tuple(candidates),
        more=row,
    )


def _output(row: Any) -> KiltOutput:
    if not isinstance(row, dict):
        raise BadField('"output", a list of objects', row)
    answer = typed(row, "answer", str, "a string", None)
    pages = typed(row, "provenance", list, "a list of objects", [])
    return KiltOutput(answer, tuple(map(_page, pages)), row)


def _page(row: Any) -> KiltPage:
    if not isinstance(row, dict):
        raise BadField('"provenance", a list of objects', row)
    title = typed(row, "title", str, "a string", None)
    page_id = row.pop("wikipedia_id", None)
    if isinstance(page_id, int) and not isinstance(page_id, bool):
        page_id = str(page_id)
    if not isinstance(page_id, str | None):
        raise BadField('"wikipedia_id", a string', page_id)
    score = row.pop("bleu_score", 1.0)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise BadField('"bleu_score", a number', score)
    return KiltPage(title, page_id, float(score), row)


def _row(record: KiltRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": record.id,
        "input": record.input,
        "output": [_output_row(own) for own in record.output],
    }
    row |= {"meta": dict(record.meta)} if record.meta else {}
    row |= {} if record.candidates is None else {"candidates": list(record.candidates)}
    return row | dict(record.more)


def _output_row(output: KiltOutput) -> dict[str, Any]:
    row: dict[str, Any] = {} if output.answer is None else {"answer": output.answer}
    row |= {"provenance": [_page_row(page) for page in output.provenance]} if output.provenance else {}
    return row | dict(output.more)


def _page_row(page: KiltPage) -> dict[str, Any]:
    row: dict[str, Any] = {} if page.wikipedia_id is None else {"wikipedia_id": page.wikipedia_id}
    row |= {} if page.title is None else {"title": page.title}
    row |= {} if page.bleu_score == 1 else {"bleu_score": page.bleu_score}
    return row | dict(page.more)
