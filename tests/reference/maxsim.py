"""MaxSim and query expansion, one number after the other."""

from __future__ import annotations

from collections.abc import Sequence

EMPTY = -1e9

Vectors = Sequence[Sequence[float]]


def maxsim(query: Vectors, query_mask: Sequence[int], doc: Vectors, doc_mask: Sequence[int]) -> float:
    counted = [vector for vector, counts in zip(doc, doc_mask, strict=True) if counts]
    if not counted:
        return EMPTY
    total = 0.0
    for token, counts in zip(query, query_mask, strict=True):
        if counts:
            total += max(sum(a * b for a, b in zip(token, other, strict=True)) for other in counted)
    return total


def expand(tokens: list[int], strategy: str, length: int, mask_id: int) -> list[int]:
    if strategy == "after-sep":
        return tokens + [mask_id] * length
    if strategy == "before-sep":
        return tokens[:-1] + [mask_id] * length + tokens[-1:]
    return tokens + [mask_id] * (length - len(tokens))
