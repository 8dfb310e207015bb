"""The losses as loops over single numbers: slow, and plain to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

Scores = Sequence[Sequence[float]]


def margin_mse(student: Scores, teacher: Scores) -> float:
    errors = [
        ((s[0] - s[j]) - (t[0] - t[j])) ** 2 for s, t in zip(student, teacher, strict=True) for j in range(1, len(s))
    ]
    return sum(errors) / len(errors)


def margin_mse_all_pairs(student: Scores, teacher: Scores, mask: Sequence[Sequence[int]]) -> float:
    means = []
    for s, t, m in zip(student, teacher, mask, strict=True):
        used = [j for j in range(len(s)) if m[j]]
        errors = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in combinations(used, 2)]
        if errors:
            means.append(sum(errors) / len(errors))
    return sum(means) / len(means) if means else 0.0


def ranknet(scores: Scores) -> float:
    terms = [math.log(1 + math.exp(-(s[0] - s[j]))) for s in scores for j in range(1, len(s))]
    return sum(terms) / len(terms)


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def kl_divergence(student: Scores, teacher: Scores, student_temperature: float, teacher_temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = _softmax([value / teacher_temperature for value in t])
        q = _softmax([value / student_temperature for value in s])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return total / len(student)


def infonce(scores: Scores, positives: Sequence[int], mask: Sequence[Sequence[int]], temperature: float) -> float:
    total = 0.0
    for s, positive, m in zip(scores, positives, mask, strict=True):
        powers = [math.exp(value / temperature) if keep else 0.0 for value, keep in zip(s, m, strict=True)]
        total -= math.log(math.exp(s[positive] / temperature) / sum(powers))
    return total / len(scores)
