"""Files of titles: one a line, alone or behind an id and a tab; plain or .gz."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened, text_lines

__all__ = ["Titles", "names_of", "read_titles"]

_MAX_ID = (1 << 32) - 1


class Titles(NamedTuple):
    """Titles of entities.

    Attributes:
        titles: one a line, as they stand there.
        ids: the id of each, uint32; None where the file has none.
    """

    titles: list[str]
    ids: NDArray[np.uint32] | None


def read_titles(path: str | os.PathLike[str]) -> Titles:
    """Reads a file of titles. A first line with a tab says that all lines are `id ⇥ title`.

    Blank lines are left out at the end only, since a title's id may be the number of its line.

    Raises:
        BadDataError: for a line without a title, that isn't UTF-8, or whose id isn't a number below 2^32; a torn archive;
            an empty file.
    """
    titles, ids = list[str](), list[int]()
    has_ids = False
    blank: int | None = None
    with opened(path) as file:
        for number, line in text_lines(file, path):
            if not line.strip():
                blank = blank or number
                continue
            columns = line.split("\t")
            has_ids = has_ids if titles else len(columns) > 1
            expected = "a number, a tab and a title" if has_ids else "a title"
            if blank is not None:
                raise BadDataError(expected, "a blank line", "remove it", str(path), blank)
            if len(columns) != 1 + has_ids or not columns[-1].strip():
                raise BadDataError(expected, repr(line[:60]), "the first line decides", str(path), number)
            titles.append(columns[-1])
            if has_ids:
                ids.append(_id_of(columns[0], path, number))
    if not titles:
        raise BadDataError("at least one title", "an empty file", path=str(path))
    return Titles(titles, np.array(ids, np.uint32) if has_ids else None)


def names_of(path: str | os.PathLike[str] | None) -> dict[int, str] | None:
    """What a file of titles calls each entity first; None without a file."""
    if path is None:
        return None
    titles, ids = read_titles(path)
    names = dict[int, str]()
    for id_, title in zip(range(len(titles)) if ids is None else ids.tolist(), titles, strict=True):
        names.setdefault(id_, title)
    return names


def _id_of(text: str, path: str | os.PathLike[str], number: int) -> int:
    digits = text.lstrip("0") or text[:1]
    # Python reads no number of more than 4,300 digits.
    if text.isascii() and text.isdigit() and len(digits) <= 10 and int(digits) <= _MAX_ID:
        return int(digits)
    remedy = "leave the column out to number titles by line, from 0"
    raise BadDataError(f"an id from 0 to {_MAX_ID:,}", repr(text[:60]), remedy, str(path), number)
