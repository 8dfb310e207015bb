"""`rankdistill encode`, `index`, `search`, `rerank`: options in, files out, and a line that says what was written."""

from __future__ import annotations

import time

from rankdistill.errors import BadDataError
from rankdistill.evaluation.latency import Latency, measure_latency
from rankdistill.formats.collection import open_collection
from rankdistill.formats.trec import read_run, write_run
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.options.retrieval import EncodeOptions, IndexOptions, RerankOptions, SearchOptions
from rankdistill.records import Run
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.encode import encode_collection, load_vectors
from rankdistill.retrieval.index import FlatIndex, faiss_module
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search
from rankdistill.retrieval.systems import rerank_latency, search_latency

__all__ = ["run_encode", "run_index", "run_rerank", "run_search"]


def run_encode(options: EncodeOptions) -> None:
    """Encodes a collection's documents into a folder of vectors."""
    model = _load_dot(options.model, options.device)
    collection = open_collection(options.collection)
    start = time.perf_counter()
    encode_collection(
        model,
        collection,
        options.output,
        shard_size=options.shard_size,
        store_dtype=options.store_dtype,
        batch_tokens=options.batch_tokens,
        dtype=options.dtype,
    )
    seconds = time.perf_counter() - start
    size = collection.num_docs * model.dim * (4 if options.store_dtype == "float32" else 2)
    print(
        f"wrote {collection.num_docs:,} vectors of width {model.dim} ({options.store_dtype}, {size / 1e6:,.1f} MB) to"
        f" {options.output} in {seconds:.1f} s"
    )


def run_index(options: IndexOptions) -> None:
    """Builds an exact index over a folder of vectors."""
    faiss_module()
    doc_ids, vectors = load_vectors(options.vectors)
    FlatIndex.build(vectors, doc_ids, "cpu").save(options.output)
    print(f"wrote an exact index over {len(doc_ids):,} vectors of width {vectors.shape[1]} to {options.output}")


def run_search(options: SearchOptions) -> Run:
    """Searches with an index, or with BM25, and writes the run."""
    if (options.index is None) != (options.model == "bm25"):
        raise ValueError('expected --index with a dot model, and none with "bm25"')
    collection = open_collection(options.collection)
    query_ids = list(collection.query_ids if options.split is None else collection.qrels(options.split))
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    timed = list(queries.values())[: options.latency_queries]
    latency: Latency | None
    if options.index is None:
        bm25 = BM25(collection.docs())
        run = bm25.search(queries, options.k)
        latency = measure_latency(lambda text: bm25.search({"": text}, options.k, progress=False), timed)
    else:
        model = _load_dot(options.model, options.device)
        index = FlatIndex.load(options.index, options.faiss_device)
        run = search(model, index, queries, options.k, batch_tokens=options.batch_tokens, dtype=options.dtype)
        latency = search_latency(model, index, timed, options.k)
    _write(options, run, latency)
    return run


def run_rerank(options: RerankOptions) -> Run:
    """Re-ranks a run, and writes the result."""
    model = load_model(options.model, device=options.device)
    collection = open_collection(options.collection)
    candidates = read_run(options.run)
    run = rerank(
        model,
        collection,
        candidates,
        depth=options.depth,
        batch_tokens=options.batch_tokens,
        dtype=options.dtype,
    )
    latency = rerank_latency(
        model, collection, run, options.latency_queries, options.depth, options.batch_tokens, options.dtype
    )
    _write(options, run, latency)
    return run


def _write(options: SearchOptions | RerankOptions, run: Run, latency: Latency | None) -> None:
    write_run(options.output, run, options.tag)
    num_lines = sum(map(len, run.values()))
    print(f"wrote {num_lines:,} documents of {len(run):,} queries to {options.output}")
    if latency is not None:
        print(f"latency: {latency}")


def _load_dot(name_or_path: str, device: str) -> DotModel:
    model = load_model(name_or_path, device=device)
    if not isinstance(model, DotModel):
        remedy = "re-rank with it: `rankdistill rerank`"
        raise BadDataError("a dot model", "a cross-encoder, which has no vectors", remedy, name_or_path)
    return model
