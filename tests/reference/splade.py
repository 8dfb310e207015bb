"""SPLADE's weights and penalties, one number after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence


def weights(logits: Sequence[Sequence[float]], mask: Sequence[int]) -> list[float]:
    """Of each term, from the logits of each token (rows) for each term (columns)."""
    found = []
    for term in range(len(logits[0])):
        best = 0.0
        for token, counts in zip(logits, mask, strict=True):
            if counts:
                best = max(best, math.log(1 + max(0.0, token[term])))
        found.append(best)
    return found


def flops(rows: Sequence[Sequence[float]]) -> float:
    return sum((sum(column) / len(rows)) ** 2 for column in zip(*rows, strict=True))


def l1(rows: Sequence[Sequence[float]]) -> float:
    return sum(sum(abs(value) for value in row) for row in rows) / len(rows)
