"""A system on BEIR collections, in BEIR's measures.

    python eval/beir.py bm25 beir/scifact/test beir/nfcorpus/test
    python eval/beir.py runs/student tests/data/conala
    python eval/beir.py cross-encoder/ms-marco-MiniLM-L6-v2 beir/scifact/test --depth 100
    python eval/beir.py my.run.gz beir/scifact/test

The table goes to standard output; runs and JSON files go to --output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cyclopts

from rankdistill.evaluation.report import render_table
from rankdistill.retrieval.experiment import measure_system

MEASURES = ("nDCG@10", "R@100", "AP@100", "RR@10")


def main(
    system: str,
    /,
    *collections: str,
    split: str | None = None,
    measures: tuple[str, ...] = MEASURES,
    output: Path = Path("runs/beir"),
    k: int = 100,
    first_stage: str = "bm25",
    depth: int = 100,
    device: str = "auto",
    faiss_device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto",
    batch_tokens: int = 8192,
    latency_queries: int = 20,
) -> None:
    """Measures a system on BEIR collections.

    Args:
        system: "bm25", a TREC run file, or a model: a folder of ours, a SentenceTransformer, a CrossEncoder, a hub id.
        collections: ir_datasets ids (beir/scifact/test) or folders.
        split: of the judgements; without it the collection's only one, or "test".
        measures: names of ir_measures; the default is BEIR's.
        output: folder for runs, JSON files and vectors.
        k: documents a query.
        first_stage: what a model that cannot search re-ranks: "bm25", a run file or one that can.
        depth: documents a query that such a model scores.
        device: where the model runs.
        faiss_device: where FAISS searches.
        dtype: of matrix products.
        batch_tokens: tokens that go through the model at once.
        latency_queries: queries timed one by one.
    """
    rows = [
        measure_system(
            system,
            collection,
            measures,
            output,
            split=split,
            k=k,
            first_stage=first_stage,
            depth=depth,
            device=device,
            faiss_device=faiss_device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            latency_queries=latency_queries,
        )
        for collection in collections
    ]
    if len(rows) > 1:
        means = {name: sum(float(row[name] or 0) for row in rows) / len(rows) for name in measures}
        rows.append({"collection": "mean", "system": rows[0]["system"], **means})
    print(render_table(rows))
    print(f"\nwrote runs and JSON files to {output}")


if __name__ == "__main__":
    cyclopts.run(main)
