"""Merges teachers the plain way: everything in dictionaries, one pair after the other."""

from __future__ import annotations

from statistics import fmean, pstdev

from tests.reference.scores import Row

Key = tuple[str, ...]


def keys(row: Row, margins: bool) -> list[Key]:
    return [(row.query_id, *row.doc_ids)] if margins else [(row.query_id, doc) for doc in row.doc_ids]


def pair_scores(rows: list[Row], margins: bool) -> tuple[dict[Key, float], set[Key]]:
    """The last score of each pair; and which pairs have several."""
    scores: dict[Key, float] = {}
    changed = set()
    for row in rows:
        for key, score in zip(keys(row, margins), row.scores, strict=False):
            if scores.get(key, score) != score:
                changed.add(key)
            scores[key] = score
    return scores, changed


def rescaled(values: dict[Key, float], how: str) -> dict[Key, float]:
    """By the mean, spread or order of these values."""
    mean, sd = fmean(values.values()), pstdev(values.values())
    low, high = min(values.values()), max(values.values())

    def one(value: float) -> float:
        if how == "zscore":
            return (value - mean) / sd if low < high else 0.0
        if how == "minmax":
            return (value - low) / (high - low) if low < high else 0.5
        others = len(values) - 1
        below = sum(other < value for other in values.values())
        ties = sum(other == value for other in values.values()) - 1
        return (below + ties / 2) / others if others else 0.5

    return {key: one(value) for key, value in values.items()}


def normalized(scores: dict[Key, float], how: str, per_query: bool) -> dict[Key, float]:
    if how == "none":
        return scores
    if not per_query and how != "rank":
        return rescaled(scores, how)
    queries: dict[str, dict[Key, float]] = {}
    for key, score in scores.items():
        queries.setdefault(key[0], {})[key] = score
    return {key: score for values in queries.values() for key, score in rescaled(values, how).items()}


def merge(
    teachers: list[list[Row]],
    weights: list[float],
    how: str = "none",
    per_query: bool = False,
    on_missing: str = "drop",
    margins: bool = False,
) -> list[Row]:
    """The first teacher's rows with the weighted mean of each pair's scores, without those that lack a pair somewhere."""
    known = [normalized(pair_scores(rows, margins)[0], how, per_query) for rows in teachers]
    merged = []
    for row in teachers[0]:
        means = []
        for key in keys(row, margins):
            found = [(weight, scores[key]) for weight, scores in zip(weights, known, strict=True) if key in scores]
            if len(found) < len(known) and on_missing == "drop":
                break
            means.append(sum(weight * score for weight, score in found) / sum(weight for weight, _ in found))
        else:
            merged.append(Row(row.query_id, row.doc_ids, [*means, 0.0] if margins else means))
    return merged
