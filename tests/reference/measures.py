"""Slow, obvious twins of the measures, from their definitions. Ties: score descending, then doc_id ascending."""

from __future__ import annotations

import math
from collections.abc import Mapping


def _order(scores: Mapping[str, float]) -> list[str]:
    return [doc for _, doc in sorted((-score, doc) for doc, score in scores.items())]


def ndcg(judged: Mapping[str, int], scores: Mapping[str, float], k: int) -> float:
    gains = [max(0, judged.get(doc, 0)) for doc in _order(scores)][:k]
    ideal = sorted((max(0, grade) for grade in judged.values()), reverse=True)[:k]
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, 1))
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1)) / best if best else 0.0


def reciprocal_rank(judged: Mapping[str, int], scores: Mapping[str, float], k: int, rel: int = 1) -> float:
    for rank, doc in enumerate(_order(scores)[:k], 1):
        if judged.get(doc, 0) >= rel:
            return 1 / rank
    return 0.0


def recall(judged: Mapping[str, int], scores: Mapping[str, float], k: int) -> float:
    relevant = {doc for doc, grade in judged.items() if grade >= 1}
    return len(relevant & set(_order(scores)[:k])) / len(relevant) if relevant else 0.0


def average_precision(judged: Mapping[str, int], scores: Mapping[str, float]) -> float:
    relevant = {doc for doc, grade in judged.items() if grade >= 1}
    hits, total = 0, 0.0
    for rank, doc in enumerate(_order(scores), 1):
        if doc in relevant:
            hits += 1
            total += hits / rank
    return total / len(relevant) if relevant else 0.0
