"""`rankdistill encode`, `index`, `search`, `rerank`, `truncate`: options in, files out, and a line that says what was written."""

from __future__ import annotations

import time
from typing import Any

from rankdistill.errors import NothingDoneError
from rankdistill.evaluation.latency import Latency, measure_latency
from rankdistill.formats.collection import open_collection
from rankdistill.formats.terminal import say
from rankdistill.formats.trec import read_run, write_run
from rankdistill.formats.writing import claim, locked, mark, replacing_folder
from rankdistill.models.loading import load_model
from rankdistill.options.retrieval import EncodeOptions, IndexOptions, RerankOptions, SearchOptions, TruncateOptions
from rankdistill.records import Run
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.index import TokenIndex, index_of, load_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search
from rankdistill.retrieval.systems import rerank_latency, search_latency

__all__ = ["run_encode", "run_index", "run_rerank", "run_search", "run_truncate"]

_TRUNCATED = "truncated model"


def run_encode(options: EncodeOptions) -> None:
    """Encodes a collection's documents into a folder."""
    collection = open_collection(options.collection)
    NothingDoneError.check(
        collection.num_docs, "document to encode", options.collection, "check the file of its documents"
    )
    model = load_model(
        options.model, device=options.device, backend=options.backend, exit=options.exit, dim=options.dim
    )
    start = time.perf_counter()
    precompute(
        model,
        collection,
        options.output,
        shard_size=options.shard_size,
        store_dtype=options.store_dtype,
        min_weight=options.min_weight,
        batch_tokens=options.batch_tokens,
        dtype=options.dtype,
    )
    seconds = time.perf_counter() - start
    say(f"wrote {load_precomputed(options.output)} to {options.output} in {seconds:.1f} s")


def run_index(options: IndexOptions) -> None:
    """Builds an index over a folder of `encode`."""
    with locked(options.output):
        encoded = load_precomputed(options.vectors)
        NothingDoneError.check(
            len(encoded.doc_ids), "document to index", options.vectors, "encode a collection that has some"
        )
        index = index_of(encoded, device="cpu", num_centroids=options.centroids)
        index.save(options.output)
    clusters = index.clusters if isinstance(index, TokenIndex) else None
    kind = "an exact index" if clusters is None else f"an index with {len(clusters.centroids):,} centroids"
    say(f"wrote {kind} over {encoded} to {options.output}")


def run_search(options: SearchOptions) -> Run:
    """Searches with an index, or with BM25, and writes the run."""
    if (options.index is None) != (options.model == "bm25"):
        raise ValueError('expected --index with a model, and none with "bm25"')
    collection = open_collection(options.collection)
    query_ids = list(collection.query_ids if options.split is None else collection.qrels(options.split))
    remedy = "check its queries" if options.split is None else f"check which queries split {options.split} judges"
    NothingDoneError.check(len(query_ids), "query", options.collection, remedy)
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    timed = list(queries.values())[: options.latency_queries]
    latency: Latency | None
    if options.index is None:
        bm25 = BM25(collection.docs())
        run = bm25.search(queries, options.k)
        latency = measure_latency(lambda text: bm25.rank(text, options.k), timed)
    else:
        model = load_model(
            options.model, device=options.device, backend=options.backend, exit=options.exit, dim=options.dim
        )
        index = load_index(options.index, options.faiss_device, model)
        settings: dict[str, Any] = {"shortlist": options.shortlist, "dtype": options.dtype}
        run = search(model, index, queries, options.k, batch_tokens=options.batch_tokens, **settings)
        latency = search_latency(model, index, timed, options.k, **settings)
    _write(options, run, latency)
    return run


def run_rerank(options: RerankOptions) -> Run:
    """Re-ranks a run, and writes the result."""
    model = load_model(
        options.model, device=options.device, backend=options.backend, exit=options.exit, dim=options.dim
    )
    collection = open_collection(options.collection)
    candidates = read_run(options.run)
    NothingDoneError.check(
        sum(map(len, candidates.values())), "document to re-rank", options.run, "check how the run was made"
    )
    precomputed = load_precomputed(options.vectors, model) if options.vectors is not None else None
    run = rerank(
        model,
        collection,
        candidates,
        depth=options.depth,
        precomputed=precomputed,
        batch_tokens=options.batch_tokens,
        dtype=options.dtype,
    )
    latency = rerank_latency(
        model, collection, run, options.latency_queries, options.depth, options.batch_tokens, options.dtype, precomputed
    )
    _write(options, run, latency)
    return run


def run_truncate(options: TruncateOptions) -> None:
    """Writes one exit of a model by itself.

    Raises:
        FileExistsError: if the output folder holds anything but a truncated model.
    """
    output = options.output
    claim(output, _TRUNCATED)
    model = load_model(options.model, device="cpu", exit=options.exit, dim=options.dim)
    size = sum(parameter.numel() for parameter in model.parameters())
    with locked(output), replacing_folder(output, last="config.json") as folder:
        model.save_pretrained(folder)
        mark(folder, _TRUNCATED)
    say(f"wrote a {model.architecture} model of {options.exit} layers, {size:,} parameters, to {options.output}")


def _write(options: SearchOptions | RerankOptions, run: Run, latency: Latency | None) -> None:
    num_lines = sum(map(len, run.values()))
    remedy = "no run is written; check that queries and documents are in one language, and belong together"
    NothingDoneError.check(num_lines, "document found for a query", options.collection, remedy)
    write_run(options.output, run, options.tag)
    say(f"wrote {num_lines:,} documents of {len(run):,} queries to {options.output}")
    if latency is not None:
        say(f"latency: {latency}")
