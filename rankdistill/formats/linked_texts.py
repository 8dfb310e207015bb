"""Texts with their mentions of entities: JSON lines `{"id", "text", "mentions": [{"start", "end", "title"}]}`, in and out."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rankdistill.formats.json_lines import BadField, distinct, first_object, id_of, json_lines, typed
from rankdistill.formats.writing import replacing

__all__ = [
    "LinkedText",
    "TextMention",
    "as_row",
    "is_linked_texts",
    "marked_text",
    "read_distinct_texts",
    "read_linked_texts",
    "write_linked_texts",
]


@dataclass(frozen=True)
class TextMention:
    """A mention in a text.

    Attributes:
        start, end: its characters (not bytes), `text[start:end]`.
        title: of the entity.
        more: other keys, as they are.
    """

    start: int
    end: int
    title: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LinkedText:
    """A line of such a file.

    Attributes:
        id: a string; numbers in the file become strings.
        text: as it is.
        mentions: in the order of the text; they don't overlap.
        more: other keys, as they are.
    """

    id: str
    text: str
    mentions: tuple[TextMention, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def read_linked_texts(path: str | os.PathLike[str]) -> Iterator[LinkedText]:
    """The texts of a file of JSON lines, plain or `.gz`, one at a time.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line that isn't UTF-8 or a JSON object, where a field is missing or of another type, or whose mentions
            overlap or lie outside of the text; a torn archive.
    """
    return json_lines(path, _linked_text)


def read_distinct_texts(path: str | os.PathLike[str]) -> Iterator[LinkedText]:
    """As `read_linked_texts`, where each id may occur once.

    Raises:
        BadDataError: also for an id that occurs a second time.
    """
    return json_lines(path, distinct(_linked_text))


def write_linked_texts(path: str | os.PathLike[str], texts: Iterable[LinkedText]) -> None:
    """Writes texts so that `read_linked_texts` gives back equal ones; atomically, gzip for `.gz`.

    Raises:
        ValueError: for what JSON doesn't have (NaN, infinity).
    """
    with replacing(path) as file:
        for text in texts:
            file.write(json.dumps(as_row(text), ensure_ascii=False, allow_nan=False).encode() + b"\n")


def is_linked_texts(path: str | os.PathLike[str]) -> bool:
    """Whether a file's first line looks like a linked text; what doesn't may be a KILT record, or nothing.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a torn archive.
    """
    row = first_object(path)
    return row is not None and "text" in row and "mentions" in row


def marked_text(text: str, mentions: Iterable[Any], form: str = "{{ {text} }} [ {title} ]") -> str:
    """A text for people, its mentions marked; what is in it already isn't escaped, so it's not for reading back.

    Args:
        mentions: with `start`, `end` and `title`, in the order of the text.
        form: of a mention; a format string of `text` and `title`.
    """
    parts, at = list[str](), 0
    for mention in mentions:
        parts += [text[at : mention.start], form.format(text=text[mention.start : mention.end], title=mention.title)]
        at = mention.end
    return "".join([*parts, text[at:]])


def as_row(text: LinkedText) -> dict[str, Any]:
    """A line's object."""
    mentions = [{"start": own.start, "end": own.end, "title": own.title} | dict(own.more) for own in text.mentions]
    return {"id": text.id, "text": text.text, "mentions": mentions} | dict(text.more)


def _linked_text(row: Any) -> LinkedText:
    if not isinstance(row, dict):
        raise BadField("a JSON object", row)
    id_ = id_of(row)
    text = typed(row, "text", str, "a string", None)
    if text is None:
        raise BadField('"text", a string', None)
    rows = typed(row, "mentions", list, "a list of objects", [])
    mentions = sorted((_mention(own, len(text)) for own in rows), key=lambda own: own.start)
    for one, other in itertools.pairwise(mentions):
        if other.start < one.end:
            places = [[own.start, own.end] for own in (one, other)]
            raise BadField("mentions that don't overlap", places)
    return LinkedText(id_, text, tuple(mentions), row)


def _mention(row: Any, length: int) -> TextMention:
    if not isinstance(row, dict):
        raise BadField('"mentions", a list of objects', row)
    place = [row.pop(name, None) for name in ("start", "end")]
    if not all(isinstance(at, int) and not isinstance(at, bool) for at in place):
        raise BadField('"start" and "end", numbers of characters', place)
    if not 0 <= place[0] < place[1] <= length:
        raise BadField(f"a mention in the {length:,} characters of its text", place)
    title = typed(row, "title", str, "a string", None)
    if title is None or not title.strip():
        raise BadField('"title", a string', title)
    return TextMention(place[0], place[1], title, row)
