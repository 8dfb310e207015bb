"""Measures of entity linking: strong matching, where a link counts if its place and its title are exactly those of the gold."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from rankdistill.evaluation.measures import Evaluation

__all__ = ["LinkEvaluation", "LinkingScores", "TitleLink", "evaluate_links", "linking_scores"]

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
    return _scores([_count(own, other, known_titles) for own, other in zip(gold, found, strict=True)])


class _Counts(NamedTuple):
    """Of one text's links."""

    gold: int
    found: int
    right: int
    unknown: int


def _count(gold: Iterable[TitleLink], found: Iterable[TitleLink], known_titles: Collection[str] | None) -> _Counts:
    wanted, theirs = set(gold), set(found)
    known = {link for link in wanted if known_titles is None or link[2] in known_titles}
    return _Counts(len(known), len(theirs), len(known & theirs), len(wanted) - len(known))


def _scores(texts: Sequence[_Counts]) -> LinkingScores:
    gold, found, right, unknown = map(sum, zip(*texts, strict=True)) if texts else (0, 0, 0, 0)
    return LinkingScores(
        precision=right / found if found else 0.0,
        recall=right / gold if gold else 0.0,
        f1=2 * right / (gold + found) if right else 0.0,
        num_gold=gold,
        num_found=found,
        num_right=right,
        num_unknown=unknown,
    )


@dataclass(frozen=True)
class LinkEvaluation(Evaluation):
    """What `evaluate_links` found.

    Attributes:
        counts: links over all texts.
    """

    counts: LinkingScores


def evaluate_links(
    gold: Mapping[str, Iterable[TitleLink]],
    found: Mapping[str, Iterable[TitleLink]],
    known_titles: Collection[str] | None = None,
) -> LinkEvaluation:
    """The measures of `linking_scores`, and F1 for each text, for tests of significance.

    Args:
        gold: the links of each text.
        found: the same; a text that isn't there has none.
        known_titles: as in `linking_scores`.

    Returns:
        "F1", "precision" and "recall" over all links, and "macro F1", the mean of the texts' own; 1 for a text that has no link and
        in which none was found.

    Raises:
        ValueError: if there's no text.

    Source:
        GERBIL's micro and macro measures (Röder et al. 2018).
    """
    if not gold:
        raise ValueError("expected texts, found none")
    texts = {name: _count(own, found.get(name, ()), known_titles) for name, own in gold.items()}
    per_text = {name: _scores([own]).f1 if own.gold or own.found else 1.0 for name, own in texts.items()}
    counts = _scores(list(texts.values()))
    mean = {"F1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    mean["macro F1"] = math.fsum(per_text.values()) / len(per_text)
    missing = sum(name not in found for name in gold)
    return LinkEvaluation(mean, {"macro F1": per_text}, len(gold), missing, counts)
