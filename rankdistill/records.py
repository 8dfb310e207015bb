"""The nouns that every room shares; field names as in ir_measures.

`Run` and `Qrels` are plain nested dictionaries, since ir_measures, ranx and pytrec_eval all take those as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

__all__ = ["Qrel", "Qrels", "Run", "ScoredDoc", "ranked"]


class Qrel(NamedTuple):
    """One judgement."""

    query_id: str
    doc_id: str
    relevance: int


class ScoredDoc(NamedTuple):
    """One line of a run."""

    query_id: str
    doc_id: str
    score: float


Run: TypeAlias = dict[str, dict[str, float]]
"""query_id -> doc_id -> score. The order within a query is `ranked`'s, not the dictionary's."""

Qrels: TypeAlias = dict[str, dict[str, int]]
"""query_id -> doc_id -> relevance."""


def ranked(scores: Mapping[str, float], depth: int | None = None) -> list[tuple[str, float]]:
    """Docs of one query in rank order: score descending, then doc_id ascending (by code point).

    This is the package's one tie rule; whatever ranks, ranks with it.
    """
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return order if depth is None else order[:depth]
