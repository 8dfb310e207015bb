"""A system on BEIR collections, in BEIR's measures.

    python eval/beir.py bm25 beir/scifact/test beir/nfcorpus/test
    python eval/beir.py runs/student tests/data/conala
    python eval/beir.py cross-encoder/ms-marco-MiniLM-L6-v2 beir/scifact/test --depth 100
    python eval/beir.py my.run.gz beir/scifact/test

The table goes to standard output; runs and JSON files go to --output.
"""

from __future__ import annotations

from typing import Annotated

import cyclopts

from rankdistill.evaluation.report import render_table
from rankdistill.options.retrieval import BeirOptions
from rankdistill.retrieval.experiment import measure_system

MEASURES = ("nDCG@10", "R@100", "AP@100", "RR@10")
DEFAULTS = BeirOptions()


def main(
    system: str,
    /,
    *collections: str,
    measures: tuple[str, ...] = MEASURES,
    options: Annotated[BeirOptions, cyclopts.Parameter(name="*")] = DEFAULTS,
) -> None:
    """Measures a system on BEIR collections.

    Args:
        system: "bm25", a TREC run file, or a model: a folder of ours, a SentenceTransformer, a CrossEncoder, a hub id.
        collections: ir_datasets ids (beir/scifact/test) or folders.
        measures: names of ir_measures; the default is BEIR's.
    """
    rows = [measure_system(system, collection, measures, options) for collection in collections]
    if len(rows) > 1:
        means = {name: sum(float(row[name] or 0) for row in rows) / len(rows) for name in measures}
        rows.append({"collection": "mean", "system": rows[0]["system"], **means})
    print(render_table(rows))
    print(f"\nwrote runs and JSON files to {options.output}")


if __name__ == "__main__":
    cyclopts.run(main)
