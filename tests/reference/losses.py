"""The losses as loops over single numbers: slow, and plain to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

Scores = Sequence[Sequence[float]]
Mask = Sequence[Sequence[int]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _used(row: Sequence[float], mask: Sequence[int]) -> list[float]:
    return [value for value, keep in zip(row, mask, strict=True) if keep]


def _rows(student: Scores, teacher: Scores, mask: Mask) -> list[tuple[list[float], list[float]]]:
    """Both sides of each query, masked docs left out."""
    return [(_used(s, m), _used(t, m)) for s, t, m in zip(student, teacher, mask, strict=True)]


def _logistic(x: float) -> float:
    """ln(1 + e^-x): the cost of a pair won by x."""
    return math.log(1 + math.exp(-x)) if x > 0 else -x + math.log(1 + math.exp(x))


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def _ranks(scores: Sequence[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [1 + order.index(i) for i in range(len(scores))]


def pointwise_mse(student: Scores, teacher: Scores, mask: Mask) -> float:
    rows = _rows(student, teacher, mask)
    return _mean([_mean([(a - b) ** 2 for a, b in zip(s, t, strict=True)]) for s, t in rows if s])


def margin_mse(student: Scores, teacher: Scores, mask: Mask) -> float:
    means = []
    for s, t in _rows(student, teacher, mask):  # doc 0 is among those kept
        means.append(_mean([((s[0] - s[j]) - (t[0] - t[j])) ** 2 for j in range(1, len(s))]))
    return _mean(means)


def margin_mse_all_pairs(student: Scores, teacher: Scores, mask: Mask) -> float:
    means = []
    for s, t in _rows(student, teacher, mask):
        errors = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in combinations(range(len(s)), 2)]
        if errors:
            means.append(_mean(errors))
    return _mean(means)


def ranknet(scores: Scores, mask: Mask) -> float:
    rows = [_used(s, m) for s, m in zip(scores, mask, strict=True)]
    return _mean([_mean([_logistic(s[0] - other) for other in s[1:]]) for s in rows])


def weighted_ranknet(student: Scores, teacher: Scores, mask: Mask) -> float:
    means = []
    for s, t in _rows(student, teacher, mask):
        costs = []
        for j in range(1, len(s)):
            better, worse = (0, j) if t[0] > t[j] else (j, 0)
            costs.append((t[better] - t[worse]) * _logistic(s[better] - s[worse]))
        means.append(_mean(costs))
    return _mean(means)


def kl_divergence(
    student: Scores, teacher: Scores, mask: Mask, student_temperature: float, teacher_temperature: float, reverse: bool
) -> float:
    total = 0.0
    for s, t in _rows(student, teacher, mask):
        p = _softmax([value / teacher_temperature for value in t])
        q = _softmax([value / student_temperature for value in s])
        if reverse:
            p, q = q, p
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return total / len(student)


def listnet(student: Scores, teacher: Scores, mask: Mask, student_temperature: float) -> float:
    total = 0.0
    for s, t in _rows(student, teacher, mask):
        powers = [math.exp(value / student_temperature) for value in s]
        for wanted, power in zip(_softmax(t), powers, strict=True):
            total -= wanted * math.log(power / sum(powers))
    return total / len(student)


def infonce(scores: Scores, positives: Sequence[int], mask: Mask, temperature: float) -> float:
    total = 0.0
    for s, positive, m in zip(scores, positives, mask, strict=True):
        powers = [math.exp(value / temperature) if keep else 0.0 for value, keep in zip(s, m, strict=True)]
        total -= math.log(math.exp(s[positive] / temperature) / sum(powers))
    return total / len(scores)


def symmetric_infonce(scores: Scores, positives: Sequence[int], mask: Mask, temperature: float) -> float:
    total = infonce(scores, positives, mask, temperature)
    for j, positive in enumerate(positives):
        # Queries that could have asked for this doc: its own, and those for which it isn't relevant too.
        rivals = [i for i, other in enumerate(positives) if i == j or (other != positive and mask[i][positive])]
        powers = [math.exp(scores[i][positive] / temperature) for i in rivals]
        total -= math.log(math.exp(scores[j][positive] / temperature) / sum(powers)) / len(positives)
    return total / 2


def _ndcg(ranks: Sequence[int], gains: Sequence[float], k: int) -> float:
    def dcg(places: Sequence[int]) -> float:
        return sum(gain / math.log2(1 + rank) for gain, rank in zip(gains, places, strict=True) if rank <= k)

    best = dcg(_ranks(gains))
    return dcg(ranks) / best if best else 0.0


def lambdarank(student: Scores, relevance: Scores, mask: Mask, k: int, exponential: bool) -> float:
    """By its meaning: two docs are swapped, and nDCG is computed anew."""
    total = 0.0
    for s, y in _rows(student, relevance, mask):
        gains = [2 ** max(0.0, value) - 1 if exponential else max(0.0, value) for value in y]
        ranks = _ranks(s)
        now = _ndcg(ranks, gains, k)
        for i in range(len(s)):
            for j in range(len(s)):
                if y[i] > y[j]:
                    swapped = list(ranks)
                    swapped[i], swapped[j] = ranks[j], ranks[i]
                    total += abs(_ndcg(swapped, gains, k) - now) * _logistic(s[i] - s[j])
    return total / len(student)


def lambda_mrr(student: Scores, labels: Scores, mask: Mask) -> float:
    means = []
    for s, y in _rows(student, labels, mask):
        ranks, costs = _ranks(s), []
        for i in range(len(s)):
            for j in range(len(s)):
                if y[i] > y[j]:
                    costs.append(abs(1 / ranks[i] - 1 / ranks[j]) * _logistic(s[i] - s[j]))
        if costs:
            means.append(_mean(costs))
    return _mean(means)


def adr_mse(student: Scores, teacher: Scores, mask: Mask, temperature: float, discount: str) -> float:
    means = []
    for s, t in _rows(student, teacher, mask):
        errors = []
        for i in range(len(s)):
            smooth = 1 + sum(math.exp(-_logistic((s[j] - s[i]) / temperature)) for j in range(len(s)) if j != i)
            first = 1 + sum(t[j] > t[i] for j in range(len(t)))
            rank = first + sum(t[j] == t[i] for j in range(len(t)) if j != i) / 2
            weight = {"log2": 1 / math.log2(1 + rank), "reciprocal": 1 / rank, "none": 1.0}[discount]
            errors.append(weight * (rank - smooth) ** 2)
        if errors:
            means.append(_mean(errors))
    return _mean(means)


def rankdistil(student: Scores, orders: Sequence[Sequence[Sequence[int]]], mask: Mask, k: int) -> float:
    """The product of probabilities, place by place, of drawing the next doc out of those that are left."""
    means = []
    for s, drawn, m in zip(student, orders, mask, strict=True):
        costs = []
        for order in drawn:
            left, probability = [i for i in order if m[i]], 1.0
            for _ in range(min(k, len(left))):
                probability *= _softmax([s[i] for i in left])[0]
                left = left[1:]
            costs.append(-math.log(probability))
        means.append(_mean(costs))
    return _mean(means)
