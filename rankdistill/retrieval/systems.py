"""Anything that ranks, under one name: "bm25", a run file, or a model.

The measuring scripts stand on this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankdistill.evaluation.latency import Latency, measure_latency
from rankdistill.formats.trec import read_run
from rankdistill.models.backends import Backend
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import Model, load_model
from rankdistill.models.precision import DTypeName
from rankdistill.records import Run, ranked
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.index import Device, Index, build_index, faiss_module, index_of, searches
from rankdistill.retrieval.precompute import Precomputed, load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank, score_encoded, score_pairs
from rankdistill.retrieval.search import search

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["Ranking", "rank", "rerank_latency", "search_latency"]


@dataclass(frozen=True)
class Ranking:
    """What a system made of a collection's queries.

    Attributes:
        run: query_id -> doc_id -> score.
        kind: "bm25", "run", or the model's architecture ("dot", "cross-encoder", …).
        num_parameters: of the model; None for the others.
        latency: one query at a time, without indexing; None for a run file.
        seconds: for all of it, loading and indexing included.
        reranked: whether a first stage found the documents.
    """

    run: Run
    kind: str
    num_parameters: int | None
    latency: Latency | None
    seconds: float
    reranked: bool = False


def rank(
    system: str | os.PathLike[str],
    collection: Collection,
    query_ids: Sequence[str],
    *,
    k: int = 1000,
    first_stage: str | os.PathLike[str] = "bm25",
    depth: int = 100,
    vectors_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    backend: Backend = "torch",
    faiss_device: Device = "auto",
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    latency_queries: int = 20,
    progress: bool = True,
) -> Ranking:
    """Ranks a collection's documents for its queries, whatever the system is.

    BM25 and models that can (`index.searches`) search all documents; others re-rank what `first_stage` (a system too) found.

    Args:
        system: "bm25", a TREC run file, or a model's folder or hub id.
        collection: documents and queries.
        query_ids: the queries to rank for.
        k: documents a query.
        first_stage: for models that re-rank.
        depth: documents a query that they score.
        vectors_dir: where what a searching model made of the documents is kept, so that an interrupted run goes
            on and later ones reuse it; in memory without it.
        device: where the model runs.
        backend: what runs it.
        faiss_device: where FAISS searches.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.
        latency_queries: queries to time one by one.
    """
    start = time.perf_counter()
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    timed = dict(list(queries.items())[:latency_queries])
    if os.fspath(system) == "bm25":
        bm25 = BM25(collection.docs(), progress=progress)
        run = bm25.search(queries, k, progress=progress)
        seconds = time.perf_counter() - start
        latency = measure_latency(lambda text: bm25.rank(text, k), timed.values())
        return Ranking(run, "bm25", None, latency, seconds)
    if os.path.isfile(system):
        found = read_run(system)
        run = {query_id: dict(ranked(found[query_id], k)) for query_id in query_ids if query_id in found}
        return Ranking(run, "run", None, None, time.perf_counter() - start)
    model = load_model(Path(system) if os.path.isdir(system) else os.fspath(system), device=device, backend=backend)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if searches(model):
        if isinstance(model, DenseModel):
            faiss_module()  # the door: before an hour of encoding, not after
        if vectors_dir is None:
            index = build_index(
                model, collection.docs(), device=faiss_device, batch_tokens=batch_tokens, dtype=dtype, progress=progress
            )
        else:
            own = Path(vectors_dir) / model.fingerprint()  # a model trained anew at the same path has others
            folder = precompute(model, collection, own, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
            index = index_of(load_precomputed(folder), device=faiss_device)
        run = search(model, index, queries, k, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
        seconds = time.perf_counter() - start
        latency = search_latency(model, index, list(timed.values()), k, dtype=dtype)
        return Ranking(run, model.architecture, num_parameters, latency, seconds)
    candidates = rank(first_stage, collection, query_ids, k=depth, latency_queries=0, progress=progress).run
    run = rerank(model, collection, candidates, depth=depth, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
    seconds = time.perf_counter() - start
    # These take seconds for what the others do in milliseconds, and vary less.
    latency = rerank_latency(model, collection, candidates, min(latency_queries, 5), depth, batch_tokens, dtype)
    return Ranking(run, model.architecture, num_parameters, latency, seconds, reranked=True)


def search_latency(
    model: Model,
    index: Index,
    queries: Sequence[str],
    k: int,
    *,
    shortlist: int = 1000,
    dtype: DTypeName = "auto",
) -> Latency | None:
    """Times encoding and searching, a query at a time."""
    settings: dict[str, Any] = {"shortlist": shortlist, "dtype": dtype, "progress": False}
    return measure_latency(lambda text: search(model, index, {"query": text}, k, **settings), queries)


def rerank_latency(
    model: Model,
    collection: Collection,
    run: Run,
    num_queries: int,
    depth: int,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    precomputed: Precomputed | None = None,
) -> Latency | None:
    """Times re-ranking, a query at a time; documents are encoded within the time too, unless they are precomputed."""
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": False}
    row_of = {} if precomputed is None else {doc_id: row for row, doc_id in enumerate(precomputed.doc_ids)}

    def job(query_id: str) -> Callable[[], object]:
        doc_ids = [doc_id for doc_id, _ in ranked(run[query_id], depth)]
        query = collection.query_texts([query_id])
        if precomputed is not None:
            rows, encoded = np.array([row_of[doc_id] for doc_id in doc_ids], np.int64), precomputed.docs
            return lambda: score_encoded(model, query, encoded, np.zeros_like(rows), rows, **settings)
        docs = collection.doc_texts(doc_ids)
        return lambda: score_pairs(model, query * len(docs), docs, **settings)

    jobs = [job(query_id) for query_id in list(run)[:num_queries] if run[query_id]]
    return measure_latency(lambda score: score(), jobs, num_warmup=1)
