"""A system on MS MARCO passages: the small dev set and TREC Deep Learning 2019 and 2020, in their official measures.

    python eval/msmarco.py bm25
    python eval/msmarco.py runs/student
    python eval/msmarco.py runs/student path/to/msmarco-folder --split dev

All three sets share the documents, so these are encoded once; an interrupted run goes on.
"""

from __future__ import annotations

from typing import Annotated

import cyclopts

from rankdistill.evaluation.report import Cell, render_table
from rankdistill.options.retrieval import MsmarcoOptions
from rankdistill.retrieval.experiment import measure_system

SETS = (
    "msmarco-passage/dev/small",
    "msmarco-passage/trec-dl-2019/judged",
    "msmarco-passage/trec-dl-2020/judged",
)
MEASURES = ("RR@10", "nDCG@10", "R@1000")
# TREC's grade 1 ("related") doesn't count as relevant, except in nDCG.
TREC_DL_MEASURES = ("nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000")
DEFAULTS = MsmarcoOptions()


def main(
    system: str,
    /,
    *collections: str,
    options: Annotated[MsmarcoOptions, cyclopts.Parameter(name="*")] = DEFAULTS,
) -> None:
    """Measures a system on MS MARCO passages.

    Args:
        system: "bm25", a TREC run file, or a model: a folder of ours, a SentenceTransformer, a CrossEncoder, a hub id.
        collections: ir_datasets ids or folders; without any, dev/small and the judged queries of TREC DL 2019 and 2020.
    """
    tables: dict[tuple[str, ...], list[dict[str, Cell]]] = {}
    for collection in collections or SETS:
        measures = TREC_DL_MEASURES if "trec-dl" in collection else MEASURES
        shared = "msmarco-passage" if collection.startswith("msmarco-passage/") else None
        row = measure_system(system, collection, measures, options, vectors=shared)
        tables.setdefault(measures, []).append(row)
    print("\n\n".join(render_table(rows) for rows in tables.values()))
    print(f"\nwrote runs and JSON files to {options.output}")


if __name__ == "__main__":
    cyclopts.run(main)
