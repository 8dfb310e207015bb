"""Draws negatives, from a ranking and from the whole collection, to make triples out of judgements."""

from __future__ import annotations

import random
from collections.abc import Collection as Container
from collections.abc import Sequence
from typing import Literal

from rankdistill.errors import NothingDoneError
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.trec import read_run
from rankdistill.formats.triples import Triple, write_triples
from rankdistill.options.scoring import TriplesOptions
from rankdistill.records import ranked
from rankdistill.retrieval.bm25 import bm25_search

__all__ = ["draw_others", "draw_triples", "make_triples"]


def draw_others(doc_ids: Sequence[str], number: int, without: Container[str], draw: random.Random) -> list[str]:
    """So many different docs of a collection, fewer where it has fewer, none of which is among `without`."""
    if not number:
        return []
    # That many hold the number wanted, whatever is left out.
    drawn = draw.sample(doc_ids, min(number + len(without), len(doc_ids)))
    return [doc_id for doc_id in drawn if doc_id not in without][:number]


def draw_triples(
    collection: Collection,
    split: str,
    negatives: str,
    *,
    num_negatives: int,
    depth: int,
    num_random: int,
    seed: int,
    on_missing: Literal["error", "skip"] = "error",
) -> list[Triple]:
    """For every relevant doc, `num_negatives` different docs that aren't relevant, drawn from the first `depth` ranks.

    Fewer where the ranking holds fewer; none for queries that it lacks.

    Args:
        split: whose relevant docs.
        negatives: the ranking, "bm25" or the path of a TREC run.
        num_random: as many more, drawn from the whole collection.
        on_missing: "skip" leaves out queries of the split that the collection lacks; BM25 can't search for them.

    Returns:
        Triples, grouped by query in the order of the split.

    Raises:
        MissingIdsError: for queries that the collection lacks, unless they are skipped.
        NothingDoneError: if no triple can be drawn.
    """
    qrels = collection.qrels(split)
    if on_missing == "skip":
        rows = collection.query_rows(list(qrels)).tolist()
        qrels = {query_id: judged for (query_id, judged), row in zip(qrels.items(), rows, strict=True) if row >= 0}
    run = bm25_search(collection, list(qrels), depth) if negatives == "bm25" else read_run(negatives)
    # A generator a query: which negatives a query gets doesn't depend on which other queries there are.
    triples = []
    for query_id, judged in qrels.items():
        relevant = sorted(doc_id for doc_id, grade in judged.items() if grade > 0)
        others = [doc_id for doc_id, _ in ranked(run.get(query_id, {}), depth) if judged.get(doc_id, 0) <= 0]
        draw = random.Random(f"{seed} {query_id}")
        for positive in relevant:
            chosen = draw.sample(others, min(num_negatives, len(others)))
            chosen += draw_others(collection.doc_ids, num_random, {*relevant, *chosen}, draw)
            triples += [Triple(query_id, positive, negative) for negative in chosen]
    if not triples:
        relevant_pairs = sum(grade > 0 for judged in qrels.values() for grade in judged.values())
        found = f"none for {relevant_pairs:,} relevant documents of {len(qrels):,} queries"
        remedy = "is the ranking of these queries, and has the split relevant documents?"
        raise NothingDoneError(
            f"a triple of the split {split} with negatives of {negatives}", found, remedy, collection.name
        )
    return triples


def make_triples(options: TriplesOptions) -> list[Triple]:
    """The `rankdistill triples` command: judgements and a ranking in, a file of triples out."""
    triples = draw_triples(
        open_collection(options.collection),
        options.split,
        options.negatives,
        num_negatives=options.num_negatives,
        depth=options.depth,
        num_random=options.num_random,
        seed=options.seed,
    )
    if options.max_triples is not None:
        random.Random(options.seed).shuffle(triples)
        triples = triples[: options.max_triples]
    write_triples(options.output, triples)
    return triples
