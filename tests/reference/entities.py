"""Slow, obvious twins of the measures of entities, word for word from their descriptions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def micro_scores(
    gold: Mapping[str, Collection[str]], answers: Mapping[str, str | None], known: Collection[str]
) -> dict[str, float]:
    """True and false positives, false negatives, one mention after the other."""
    tp = fp = fn = 0
    for mention, entities in gold.items():
        if not any(entity in known for entity in entities):
            continue
        answer = answers.get(mention)
        if answer is None:
            fn += 1
        elif answer in entities and answer in known:
            tp += 1
        else:
            fp += 1
            fn += 1
    return {
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "accuracy": tp / (tp + fn),
        "F1": 2 * tp / (2 * tp + fp + fn),
    }


def r_precision(sets: Sequence[Collection[str]], pages: Sequence[str]) -> float:
    best = 0.0
    for own in sets:
        distinct = list(dict.fromkeys(pages))
        hits = sum(page in own for page in distinct[: len(own)])
        best = max(best, hits / len(own))
    return best


def recall_by_evidence(sets: Sequence[Collection[str]], pages: Sequence[str], k: int) -> float:
    """Walks down the ranking: a set's mark moves to its newest page, and becomes a hit at its last one."""
    waiting: list[set[str]] = []
    for own in sets:
        if set(own) not in waiting:
            waiting.append(set(own))
    num_sets = len(waiting)
    ranking: list[object] = []
    for page in dict.fromkeys(pages):
        is_evidence = False
        for number, missing in enumerate(waiting):
            if page not in missing:
                continue
            is_evidence = True
            if number in ranking:
                ranking.remove(number)
            missing.remove(page)
            ranking.append(number if missing else "hit")
        if not is_evidence:
            ranking.append("miss")
    return ranking[:k].count("hit") / num_sets
