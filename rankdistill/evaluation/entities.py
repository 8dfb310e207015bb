"""Measures of entities: one answer for each mention, or a ranking of pages for each question."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.evaluation.measures import Evaluation
from rankdistill.records import by_id

__all__ = ["EntityEvaluation", "evaluate_entities", "evaluate_pages"]


@dataclass(frozen=True)
class EntityEvaluation(Evaluation):
    """What `evaluate_entities` found.

    Attributes:
        num_out_of_kb: mentions that were left out, since none of their entities is in the knowledge base.
    """

    num_out_of_kb: int = 0


def evaluate_entities(
    gold: Mapping[str, Collection[Hashable]],
    answers: Mapping[str, Hashable | None],
    knowledge_base: Container[Any] | None = None,
) -> EntityEvaluation:
    """Micro F1, precision and accuracy of one answer for each mention, of those whose entity is in the knowledge base.

    An answer is right if it is one of the mention's entities. With R right answers, A answers and M mentions, precision is R / A,
    accuracy (which is recall) R / M, and F1 2 R / (A + M): where every mention has an answer, all three are the same. An answer
    outside of the knowledge base is wrong.

    Args:
        gold: the entities (titles, or ids) of each mention; mentions without any are left out and counted.
        answers: one a mention; None, or no entry, where there's none.
        knowledge_base: what is known; a mention none of whose entities is in it is left out and counted. All without it.

    Returns:
        "F1", "precision" and "accuracy"; the last also for each mention, 1 or 0, for tests of significance.

    Raises:
        ValueError: if no mention is left.

    Source:
        GERBIL's "GSInKB" (gold standard in the knowledge base) of its task D2KB: Röder, Usbeck and Ngonga Ngomo 2018, Semantic
        Web 9(5). GENRE's "InKB micro F1" is the same. (GERBIL's "InKB" also counts known answers to left-out mentions as wrong.)
    """
    answers = by_id(answers)
    known = {
        mention: [entity for entity in entities if knowledge_base is None or entity in knowledge_base]
        for mention, entities in by_id(gold).items()
    }
    judged = {mention: entities for mention, entities in known.items() if entities}
    if not judged:
        raise ValueError("expected mentions of entities in the knowledge base, found none")
    given = {mention: answer for mention in judged if (answer := answers.get(mention)) is not None}
    right = {mention: float(mention in given and given[mention] in entities) for mention, entities in judged.items()}
    total = math.fsum(right.values())
    mean = {
        "F1": 2 * total / (len(given) + len(judged)),
        "precision": total / len(given) if given else 0.0,
        "accuracy": total / len(judged),
    }
    return EntityEvaluation(
        mean,
        {"accuracy": right},
        num_queries=len(judged),
        num_missing=len(judged) - len(given),
        num_out_of_kb=len(gold) - len(judged),
    )


def evaluate_pages(
    gold: Mapping[str, Sequence[Collection[str]]],
    ranked_pages: Mapping[str, Sequence[str]],
    ks: Sequence[int] = (1, 5, 10, 20),
) -> Evaluation:
    """KILT's R-precision and recall by evidence set, for each question and on average.

    An evidence set is pages that support an answer together. R-precision is, for the best of a question's sets, the share of its R
    pages among the first R of the ranking. For recall@k, a set is one point of the ranking, where its last page stands, and a page
    of no set is a point too; counted are sets whose pages are all there, among the first k points.

    Args:
        gold: the evidence sets of each question; empty and repeated ones count for nothing, and a question without any is left out.
        ranked_pages: pages of each question, the best first; repeated ones count once. A question that isn't there has 0.
        ks: for recall@k.

    Raises:
        ValueError: if no question has an evidence set, or for a k below 1.

    Source:
        Petroni et al. 2021, arXiv:2009.02252, and kilt/eval_retrieval.py of its repository, which leaves out what is no page id.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"expected each k to be at least 1, found {list(ks)}")
    ranked_pages = by_id(ranked_pages)
    judged = {
        question: sets
        for question, own in by_id(gold).items()
        if (sets := list(dict.fromkeys(frozenset(pages) for pages in own if pages)))
    }
    if not judged:
        raise ValueError("expected questions with pages that support an answer, found none")
    per_query: dict[str, dict[str, float]] = {"R-precision": {}, **{f"recall@{k}": {} for k in ks}}
    for question, sets in judged.items():
        pages = list(dict.fromkeys(ranked_pages.get(question, ())))
        per_query["R-precision"][question] = max(len(own & set(pages[: len(own)])) / len(own) for own in sets)
        points = _points(sets, pages)
        for k in ks:
            per_query[f"recall@{k}"][question] = sum(points[:k]) / len(sets)
    mean = {measure: math.fsum(values.values()) / len(judged) for measure, values in per_query.items()}
    return Evaluation(mean, per_query, len(judged), sum(not ranked_pages.get(question) for question in judged))


def _points(sets: Sequence[frozenset[str]], pages: Sequence[str]) -> list[bool]:
    """The ranking with each evidence set as one point: True where it's complete."""
    place = {page: at for at, page in enumerate(pages)}
    supporting = frozenset[str]().union(*sets)
    points = [(at, -1, False) for page, at in place.items() if page not in supporting]
    for number, own in enumerate(sets):
        if there := [place[page] for page in own if page in place]:
            points.append((max(there), number, len(there) == len(own)))
    return [is_complete for _, _, is_complete in sorted(points)]
