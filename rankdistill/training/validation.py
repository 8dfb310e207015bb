"""Measures of a dev set during training: by searching all documents, or by re-ranking candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from rankdistill.evaluation.measures import evaluate
from rankdistill.formats.collection import Collection
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.towers import Tower
from rankdistill.records import Qrels, Run
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search

__all__ = ["dev_qrels", "validator"]


def dev_qrels(collection: Collection, split: str, num_queries: int) -> Qrels:
    """The judgements of at most `num_queries` queries, evenly spread over the split's order."""
    qrels = collection.qrels(split)
    query_ids = list(qrels)
    if len(query_ids) > num_queries:
        query_ids = [query_ids[i * len(query_ids) // num_queries] for i in range(num_queries)]
    return {query_id: qrels[query_id] for query_id in query_ids}


def validator(
    collection: Collection,
    qrels: Qrels,
    *,
    measures: Sequence[str] = ("nDCG@10", "RR@10"),
    candidates: Run | None = None,
    depth: int = 100,
) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to its measures on a dev set.

    Args:
        measures: as ir_measures names them.
        candidates: re-rank these; None searches the whole collection.
        depth: results a query.
    """
    queries = dict(zip(qrels, collection.query_texts(list(qrels)), strict=True))

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Tower | CrossEncoderModel)  # what `Model` stands for
        if candidates is not None:
            run = rerank(model, collection, candidates, depth=depth, dtype="fast", progress=False)
        else:
            # For a few queries, exact search costs less than clusters of tokens.
            index = build_index(model, collection.docs(), num_centroids=0, dtype="fast", progress=False)
            run = search(model, index, queries, k=depth, dtype="fast", progress=False)
        return evaluate(qrels, run, measures).mean

    return validate
