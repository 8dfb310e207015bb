"""Text for a terminal: ids, titles and names of files may hold control characters, which must not steer it."""

from __future__ import annotations

import re
import sys
from typing import IO

__all__ = ["printable", "say"]

# Control characters but tab and line feed, what turns the direction of text, and lone surrogates, which UTF-8 can't write.
_UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
# Bold, faint, green and blue, as pages of ours have them, and their end.
_STYLE = "\x1b\\[(?:0|1|2|32|34)m"


def printable(text: str, *, styled: bool = False) -> str:
    r"""The text with its control characters written out, an escape as `\x1b`; tabs and line feeds stay.

    Args:
        styled: keep bold, faint, green and blue.
    """

    def written(match: re.Match[str]) -> str:
        found = match.group()
        return found if len(found) > 1 else found.encode("unicode_escape", "surrogatepass").decode()

    return re.sub(f"{_STYLE}|{_UNSAFE}" if styled else _UNSAFE, written, text)


def say(text: object, *, file: IO[str] | None = None, styled: bool = False) -> None:
    """Prints a line, `printable`; all that commands print goes through here."""
    print(printable(str(text), styled=styled), file=sys.stdout if file is None else file)
