"""Links of mentions to titles, as files have them: linked text, KILT's mentions, and tables of anchors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened
from rankdistill.formats.kilt import gold_titles, one_line, read_kilt

__all__ = ["Link", "LinkedText", "TextLink", "read_anchors", "read_linked_text", "read_links"]


class Link(NamedTuple):
    """A mention that links to a title.

    Attributes:
        mention: as it stands in the text, in one line (`one_line`).
        title: of the page.
        times: how often it does.
    """

    mention: str
    title: str
    times: int = 1


class TextLink(NamedTuple):
    """A link inside a text: its characters are `text[start:end]`."""

    start: int
    end: int
    title: str


@dataclass(frozen=True)
class LinkedText:
    """A text with its links.

    Attributes:
        id: a string.
        text: any text.
        links: in the order of the file.
        more: other keys, as they are.
    """

    id: str
    text: str
    links: tuple[TextLink, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def read_links(path: str | os.PathLike[str]) -> Iterator[Link]:
    """The links of a file, one at a time; what the file is, its first line says.

    Linked text (`read_linked_text`), KILT's JSON lines with mentions in their contexts, where each supporting title is a link,
    or a table of anchors (`read_anchors`). Records of KILT without a mention or a title have no link. Plain or `.gz`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a malformed line, or as the readers of these formats.
    """
    with opened(path) as file:
        first = _json_object(next(file, b""))
    if first is None:
        yield from read_anchors(path)
    elif "text" in first:
        for linked in read_linked_text(path):
            for link in linked.links:
                if mention := one_line(linked.text[link.start : link.end]):
                    yield Link(mention, link.title)
    else:
        for record in read_kilt(path):
            found = record.meta.get("mention")
            if isinstance(found, str) and (mention := one_line(found)):
                yield from (Link(mention, one_line(title)) for title in gold_titles(record) if title.strip())


def read_linked_text(path: str | os.PathLike[str]) -> Iterator[LinkedText]:
    """The texts of a file of JSON lines `{"id", "text", "mentions": [{"start", "end", "title"}]}`, plain or `.gz`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line of another shape, or a link outside of its text or without a title; with file and line.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            row = _json_object(line)
            if row is None:
                raise BadDataError("a JSON object", repr(line[:80]), path=os.fspath(path), line=number)
            try:
                yield _linked_text(row)
            except (KeyError, TypeError, ValueError) as error:
                expected = '"id", "text" and "mentions", a list of {"start", "end", "title"} inside the text'
                raise BadDataError(expected, f"{_reason(error)} ({line[:80]!r})", path=str(path), line=number) from None


def read_anchors(path: str | os.PathLike[str]) -> Iterator[Link]:
    """The lines `mention ⇥ title ⇥ count` of a table of anchors, plain or `.gz`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line of another shape, with file and line.
    """
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                columns = raw.rstrip(b"\r\n").decode().split("\t")
            except UnicodeDecodeError as error:
                raise BadDataError("UTF-8", repr(raw[:60]), path=str(path), line=number) from error
            mention, title = (one_line(columns[0]), one_line(columns[1])) if len(columns) == 3 else ("", "")
            if not mention or not title or not (columns[2].isascii() and columns[2].isdigit() and int(columns[2])):
                expected = "a mention, a title and a count of at least 1, with tabs between"
                raise BadDataError(expected, repr("\t".join(columns)[:80]), path=str(path), line=number)
            yield Link(mention, title, int(columns[2]))


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _linked_text(row: dict[str, Any]) -> LinkedText:
    id_, text, mentions = row.pop("id"), row.pop("text"), row.pop("mentions")
    if not isinstance(text, str) or not isinstance(mentions, list):
        raise TypeError("another type")
    links = tuple(TextLink(int(link["start"]), int(link["end"]), one_line(link["title"])) for link in mentions)
    for link in links:
        if not 0 <= link.start < link.end <= len(text) or not link.title:
            raise ValueError(f"characters {link.start} to {link.end} of {len(text)}, title {link.title!r}")
    return LinkedText(str(id_), text, links, row)


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
