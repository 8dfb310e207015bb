"""Links of mentions to titles, as files have them: linked text, KILT's mentions, and tables of anchors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened, text_lines
from rankdistill.formats.json_lines import first_object
from rankdistill.formats.kilt import gold_titles, one_line, read_kilt
from rankdistill.formats.linked_texts import is_linked_texts, read_linked_texts

__all__ = ["Link", "read_anchors", "read_links"]

# Python reads no number of more than 4,300 digits.
_COUNT = re.compile(r"0{0,99}[1-9][0-9]{0,17}")


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


def read_links(path: str | os.PathLike[str]) -> Iterator[Link]:
    """The links of a file, one at a time; what the file is, its first line says.

    Linked texts (`read_linked_texts`), KILT's JSON lines with mentions in their contexts, where each supporting title is a link,
    or a table of anchors (`read_anchors`). Records of KILT without a mention or a title have no link. Plain or `.gz`.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a malformed line, or as the readers of these formats.
    """
    if is_linked_texts(path):
        for linked in read_linked_texts(path):
            for link in linked.mentions:
                if mention := one_line(linked.text[link.start : link.end]):
                    yield Link(mention, one_line(link.title))
    elif first_object(path) is None:
        yield from read_anchors(path)
    else:
        for record in read_kilt(path):
            found = record.meta.get("mention")
            if isinstance(found, str) and (mention := one_line(found)):
                yield from (Link(mention, one_line(title)) for title in gold_titles(record) if title.strip())


def read_anchors(path: str | os.PathLike[str]) -> Iterator[Link]:
    """The lines `mention ⇥ title ⇥ count` of a table of anchors, plain or `.gz`; runs of white space become one space.

    Blank lines are left out.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line of another shape, with file and line.
    """
    with opened(path) as file:
        for number, line in text_lines(file, path):
            columns = line.split("\t")
            if not line.strip():
                continue
            mention, title = (" ".join(column.split()) for column in columns[:2]) if len(columns) == 3 else ("", "")
            if not mention or not title or not _COUNT.fullmatch(columns[2]):
                expected = "a mention, a title and a count of at least 1, with tabs between"
                raise BadDataError(expected, repr(line[:80]), path=str(path), line=number)
            yield Link(mention, title, int(columns[2]))
