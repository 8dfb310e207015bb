"""JSON lines, plain or `.gz`: one object a line, and errors that name the line and the field."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened

__all__ = ["BadField", "distinct", "first_object", "id_of", "json_lines", "json_value", "typed"]

_T = TypeVar("_T")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadField(Exception):
    """What a line should have, and what it has; `json_lines` says where."""

    def __init__(self, expected: str, found: Any, more: str = "") -> None:
        super().__init__()
        shown = json.dumps(found, ensure_ascii=False)
        self.expected, self.found = expected, (shown if len(shown) <= 80 else f"{shown[:77]}...") + more


def json_value(line: bytes) -> Any:
    """The value of a line of JSON. All JSON that others write is read here.

    Raises:
        ValueError: for what isn't UTF-8 or JSON, is nested too deeply, or has a string with half of a surrogate pair, which
            neither files nor tokenizers can hold.
    """
    text = line.decode()
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # Emoji are escaped as pairs of surrogates, so only the decoded value tells whether both halves are there.
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise ValueError(f"half of a surrogate pair, {half}") from None
    return value


def json_lines(path: str | os.PathLike[str], parse: Callable[[Any], _T]) -> Iterator[_T]:
    """What `parse` makes of each line, one at a time, so that the largest file fits in memory. Blank lines are left out.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a line that `json_value` refuses, or for which `parse` raises BadField; a torn archive.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                yield parse(json_value(line))
            except BadField as error:
                raise BadDataError(error.expected, error.found, path=os.fspath(path), line=number) from None
            except ValueError as error:
                found = f"{line[:80]!r} ({error})"
                raise BadDataError("a JSON object", found, path=os.fspath(path), line=number) from error


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


_Identified = TypeVar("_Identified", bound=_HasId)


def distinct(parse: Callable[[Any], _Identified]) -> Callable[[Any], _Identified]:
    """A `parse` for `json_lines` that raises BadField for an id that occurs a second time."""
    seen = set[str]()

    def parse_distinct(row: Any) -> _Identified:
        record = parse(row)
        if record.id in seen:
            raise BadField("distinct ids", record.id, " a second time")
        seen.add(record.id)
        return record

    return parse_distinct


def first_object(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The object of the first line that isn't blank, which tells what the file is; None if that's no object.

    Raises:
        FileNotFoundError: if there's no such file.
        BadDataError: for a torn archive.
    """
    with opened(path) as file:
        try:
            row = json_value(next((line for line in file if not line.isspace()), b""))
        except ValueError:
            return None
    return row if isinstance(row, dict) else None


def id_of(row: dict[str, Any], name: str = "id") -> str:
    """Takes an id out of the row: a string, or a whole number, which becomes one."""
    value = row.pop(name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BadField(f'an "{name}", a string', value)
    return value


def typed(row: dict[str, Any], name: str, kind: type, what: str, default: Any) -> Any:
    """Takes a key out of the row; None in the file is as good as no key."""
    value = row.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise BadField(f'"{name}", {what}', value)
    return value
