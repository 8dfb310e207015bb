"""Measures of entity linking: strong matching, where a link counts if its place and its title are exactly those of the gold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["LinkingScores", "TitleLink", "linking_scores"]

TitleLink: TypeAlias = tuple[int, int, str]
"""Start and end of a mention, in characters, and its title."""


class LinkingScores(NamedTuple):
    """Micro averages over all texts.

    Attributes:
        precision: the share of found links that are right; 0 if none was found. So for `recall` of the gold ones.
        f1: their harmonic mean; 0 if none is right.
        num_gold, num_found, num_right: links that count.
        num_unknown: gold links that don't, since their title isn't known.
    """

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_found: int
    num_right: int
    num_unknown: int


def linking_scores(
    gold: Sequence[Iterable[TitleLink]],
    found: Sequence[Iterable[TitleLink]],
    known_titles: Collection[str] | None = None,
) -> LinkingScores:
    """Micro precision, recall and F1 of links by strong matching; with `known_titles`, InKB.

    Args:
        gold: the links of each text; the same link twice counts once, on both sides.
        found: those of the same texts. One where the gold's title isn't known is wrong, as GERBIL has it.
        known_titles: titles that can be found (the trie's). Gold links with others are left out, and counted.

    Raises:
        ValueError: if there aren't as many texts on both sides.

    Source:
        Röder et al. 2018 (GERBIL), for strong annotation matching and InKB; De Cao et al. 2021, arXiv:2010.00904, section 4.2.
    """
    if len(gold) != len(found):
        raise ValueError(f"expected found links of {len(gold)} texts, found those of {len(found)}")
    wanted = [set(own) for own in gold]
    known = [{link for link in own if known_titles is None or link[2] in known_titles} for own in wanted]
    theirs = [set(own) for own in found]
    num_gold, num_found = sum(map(len, known)), sum(map(len, theirs))
    num_right = sum(len(own & other) for own, other in zip(known, theirs, strict=True))
    return LinkingScores(
        precision=num_right / num_found if num_found else 0.0,
        recall=num_right / num_gold if num_gold else 0.0,
        f1=2 * num_right / (num_gold + num_found) if num_right else 0.0,
        num_gold=num_gold,
        num_found=num_found,
        num_right=num_right,
        num_unknown=sum(map(len, wanted)) - num_gold,
    )
