"""A system on MS MARCO passages: the small dev set and TREC Deep Learning 2019 and 2020, in their official measures.

    python eval/msmarco.py bm25
    python eval/msmarco.py runs/student
    python eval/msmarco.py runs/student path/to/msmarco-folder --split dev

All three sets share the documents, so these are encoded once; an interrupted run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cyclopts

from rankdistill.evaluation.report import Cell, render_table
from rankdistill.retrieval.experiment import measure_system

SETS = (
    "msmarco-passage/dev/small",
    "msmarco-passage/trec-dl-2019/judged",
    "msmarco-passage/trec-dl-2020/judged",
)
MEASURES = ("RR@10", "nDCG@10", "R@1000")
# TREC's grade 1 ("related") doesn't count as relevant, except in nDCG.
TREC_DL_MEASURES = ("nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000")


def main(
    system: str,
    /,
    *collections: str,
    split: str | None = None,
    output: Path = Path("runs/msmarco"),
    k: int = 1000,
    first_stage: str = "bm25",
    depth: int = 1000,
    device: str = "auto",
    faiss_device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto",
    batch_tokens: int = 8192,
    latency_queries: int = 20,
) -> None:
    """Measures a system on MS MARCO passages.

    Args:
        system: "bm25", a TREC run file, or a model: a folder of ours, a SentenceTransformer, a CrossEncoder, a hub id.
        collections: ir_datasets ids or folders; without any, dev/small and the judged queries of TREC DL 2019 and 2020.
        split: of the judgements; without it the collection's only one, or "test".
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
    tables: dict[tuple[str, ...], list[dict[str, Cell]]] = {}
    for collection in collections or SETS:
        measures = TREC_DL_MEASURES if "trec-dl" in collection else MEASURES
        row = measure_system(
            system,
            collection,
            measures,
            output,
            split=split,
            k=k,
            first_stage=first_stage,
            depth=depth,
            vectors="msmarco-passage" if collection.startswith("msmarco-passage/") else None,
            device=device,
            faiss_device=faiss_device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            latency_queries=latency_queries,
        )
        tables.setdefault(measures, []).append(row)
    print("\n\n".join(render_table(rows) for rows in tables.values()))
    print(f"\nwrote runs and JSON files to {output}")


if __name__ == "__main__":
    cyclopts.run(main)
