"""The table of mentions: to which titles a mention links, and how often; a file that can be read, compared and joined by eye.

The file has lines `mention ⇥ title ⇥ count`, UTF-8, plain or `.gz`, ordered by mention, then count (greatest first), then title.
That is a table of anchors, too: tables can be counted together with others, and anchors are a table as they are.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rankdistill.formats.kilt import one_line
from rankdistill.formats.links import Link, read_anchors
from rankdistill.formats.writing import replacing

__all__ = ["BuiltTable", "MentionTable", "build_mentions"]


class MentionTable:
    """Titles of mentions with priors P(title | mention): a title's share of the mention's links, among those in the table.

    A mention is looked up in one line, as it is, and with HTML's entities resolved (`kilt.one_line`); then, if it isn't there, with
    all that are the same when folded (`str.casefold`), whose counts add up. Composed and decomposed letters are the same: tables
    are read, built and asked in Unicode's form NFC. Titles stay as they are, since they are a trie's.

    Args:
        counts: mention -> title -> how often it links there. Not changed, and not to be changed while the table is used.
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self._counts = counts

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> MentionTable:
        """Reads a table; lines may be in any order, and the same pair's counts add up.

        Raises:
            FileNotFoundError: if there's no such file.
            BadDataError: for a line that isn't a mention, a title and a count, with file and line.
        """
        return cls(_counted(read_anchors(path)))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the table, atomically, gzip for `.gz`; equal tables are equal bytes."""
        with replacing(path) as file:
            for mention in sorted(self._counts):
                lines = (f"{mention}\t{title}\t{count}\n" for title, count in _by_count(self._counts[mention]))
                file.write("".join(lines).encode())

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def titles(self) -> set[str]:
        """All titles."""
        return {title for own in self._counts.values() for title in own}

    @property
    def num_pairs(self) -> int:
        """Pairs of a mention and a title."""
        return sum(map(len, self._counts.values()))

    def candidates(self, mention: str, k: int | None = None) -> list[tuple[str, float]]:
        """Titles with priors, the likeliest first (of equal ones by title); all, or the first k; none for an unknown mention."""
        titles = self._titles(mention)
        total = sum(titles.values())
        return [(title, count / total) for title, count in _by_count(titles)[:k]]

    def titles_of(self, mention: str, k: int | None = None) -> list[str]:
        """The same without priors."""
        return [title for title, _ in self.candidates(mention, k)]

    def most_frequent(self, mention: str) -> str | None:
        """The title that the mention links to most often; None for an unknown mention."""
        titles = self._titles(mention)
        return min(titles, key=lambda title: (-titles[title], title)) if titles else None

    def _titles(self, mention: str) -> Mapping[str, int]:
        for plain in (" ".join(mention.split()), one_line(mention)):
            for form in (plain, _composed(plain)):
                if (exact := self._counts.get(form)) is not None:
                    return exact
        together = Counter[str]()
        for alike in self._folded.get(_folded(one_line(mention)), ()):
            together.update(self._counts[alike])
        return together

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        folded = dict[str, list[str]]()
        for mention in self._counts:
            folded.setdefault(_folded(mention), []).append(mention)
        return folded


class BuiltTable(NamedTuple):
    """A table, and what was left out of it.

    Attributes:
        table: the rest.
        num_links: links that were read, as often as they occur.
        num_unknown: links to titles that aren't among those to keep; their distinct titles are `num_unknown_titles`.
        num_rare: links of pairs that occur too seldom.
        num_beyond: links of titles behind a mention's first `max_candidates`.
    """

    table: MentionTable
    num_links: int
    num_unknown: int
    num_unknown_titles: int
    num_rare: int
    num_beyond: int


def build_mentions(
    links: Iterable[Link],
    *,
    min_count: int = 1,
    max_candidates: int | None = None,
    known: Callable[[list[str]], Collection[str]] | None = None,
) -> BuiltTable:
    """Counts links. The same links give the same table, in whatever order.

    Args:
        links: of any number of files; only their distinct pairs are held.
        min_count: leave out pairs of a mention and a title that occur less often.
        max_candidates: titles of a mention, the most frequent first; all without it.
        known: given all titles, those to keep (the ones in a trie, say); all without it.

    Raises:
        ValueError: for numbers below 1.
    """
    if min_count < 1 or (max_candidates is not None and max_candidates < 1):
        raise ValueError(f"expected min_count and max_candidates of at least 1, found {min_count} and {max_candidates}")
    counts = _counted(links)
    titles = sorted(MentionTable(counts).titles)
    kept = set(titles if known is None else known(titles))
    lost = _Lost()
    table = dict[str, dict[str, int]]()
    for mention, own in counts.items():
        there = {title: count for title, count in own.items() if title in kept}
        frequent = {title: count for title, count in there.items() if count >= min_count}
        first = dict(_by_count(frequent)[:max_candidates])
        totals = [sum(each.values()) for each in (own, there, frequent, first)]
        lost.all += totals[0]
        lost.unknown += totals[0] - totals[1]
        lost.rare += totals[1] - totals[2]
        lost.beyond += totals[2] - totals[3]
        if first:
            table[mention] = first
    return BuiltTable(
        MentionTable(table), lost.all, lost.unknown, len(titles) - len(kept & set(titles)), lost.rare, lost.beyond
    )


@dataclass
class _Lost:
    all: int = 0
    unknown: int = 0
    rare: int = 0
    beyond: int = 0


def _counted(links: Iterable[Link]) -> dict[str, dict[str, int]]:
    counts = dict[str, dict[str, int]]()
    for mention, title, times in links:
        own = counts.setdefault(_composed(mention), {})
        own[title] = own.get(title, 0) + times
    return counts


def _composed(mention: str) -> str:
    return unicodedata.normalize("NFC", mention)


def _folded(mention: str) -> str:
    return _composed(mention.casefold())


def _by_count(titles: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(titles.items(), key=lambda item: (-item[1], item[0]))
