"""Files of JSON lines, plain or `.gz`: one object a line, and errors that name the line and the field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened

__all__ = ["BadField", "distinct", "first_object", "json_lines", "typed"]

_T = TypeVar("_T")


class BadField(Exception):
    """What a line should have, and what it has; `json_lines` says where."""

    def __init__(self, expected: str, found: Any) -> None:
        super().__init__()
        shown = json.dumps(found, ensure_ascii=False)
        self.expected, self.found = expected, shown if len(shown) <= 80 else f"{shown[:77]}..."


def json_lines(path: str | os.PathLike[str], parse: Callable[[Any], _T]) -> Iterator[_T]:
    """What `parse` makes of each line, one at a time, so that the largest file fits in memory.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line that isn't UTF-8 or JSON, or for which `parse` raises BadField; a torn archive.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse(json.loads(line))
            except BadField as error:
                raise BadDataError(error.expected, error.found, path=os.fspath(path), line=number) from None
            except ValueError as error:
                found = f"{line[:80]!r} ({error})"
                raise BadDataError("a JSON object", found, path=os.fspath(path), line=number) from error


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


_Identified = TypeVar("_Identified", bound=_HasId)


def distinct(path: str | os.PathLike[str], rows: Iterable[_Identified]) -> Iterator[_Identified]:
    """The rows, one from each line of a file.

    Raises:
        BadDataError: for an id that occurs a second time.
    """
    seen = set[str]()
    for number, row in enumerate(rows, 1):
        if row.id in seen:
            raise BadDataError("distinct ids", f'"{row.id}" a second time', path=os.fspath(path), line=number)
        seen.add(row.id)
        yield row


def first_object(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The object of a file's first line, which tells what the file is; None if that's no object.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a torn archive.
    """
    with opened(path) as file:
        try:
            row = json.loads(file.readline())
        except ValueError:
            return None
    return row if isinstance(row, dict) else None


def typed(row: dict[str, Any], name: str, kind: type, what: str, default: Any) -> Any:
    """Takes a key out of the row; None in the file is as good as no key."""
    value = row.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise BadField(f'"{name}", {what}', value)
    return value
