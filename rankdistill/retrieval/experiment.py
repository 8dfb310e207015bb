"""One system on one collection: a run file, a JSON with all that is needed to repeat it, and a row of a table."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rankdistill
from rankdistill.evaluation.measures import Evaluation, evaluate, parse_measures
from rankdistill.evaluation.report import Cell
from rankdistill.formats.collection import open_collection
from rankdistill.formats.trec import write_run
from rankdistill.formats.writing import save_json
from rankdistill.options.retrieval import MeasureOptions
from rankdistill.retrieval.systems import rank

__all__ = ["measure_system", "slug"]

_PACKAGES = ("torch", "transformers", "faiss-cpu", "faiss-gpu", "bm25s", "ir-measures", "ir-datasets")


def measure_system(
    system: str,
    spec: str,
    measures: Sequence[str],
    options: MeasureOptions,
    *,
    vectors: str | None = None,
) -> dict[str, Cell]:
    """Ranks with a system for the judged queries of a collection, and measures the run.

    Writes `<collection>/<system>.run.gz` and `<collection>/<system>.json` under `options.output`. What a model that
    searches made of the documents is kept in `vectors/` there, so that an interrupted run goes on.

    Args:
        system: as `systems.rank` takes it.
        spec: as `open_collection` takes it.
        measures: the first is the one to look at.
        options: split, cut, device and so on.
        vectors: a name for the documents, so that collections with the same documents share their vectors.

    Returns:
        A row: collection, system, measures, latency.
    """
    parse_measures(measures)  # a mistyped one is known now, not after hours
    collection = open_collection(spec)
    split = options.split or (collection.splits[0] if len(collection.splits) == 1 else "test")
    qrels = collection.qrels(split)
    name = slug(system)
    ranking = rank(
        system,
        collection,
        list(qrels),
        k=options.k,
        first_stage=options.first_stage,
        depth=options.depth,
        vectors_dir=options.output / "vectors" / (vectors or slug(spec)),
        device=options.device,
        backend=options.backend,
        faiss_device=options.faiss_device,
        batch_tokens=options.batch_tokens,
        dtype=options.dtype,
        latency_queries=options.latency_queries,
    )
    found = evaluate(qrels, ranking.run, measures)
    folder = options.output / slug(spec)
    write_run(folder / f"{name}.run.gz", ranking.run, name)
    report = {
        "system": system,
        "kind": ranking.kind,
        "num_parameters": ranking.num_parameters,
        "first_stage": {"system": options.first_stage, "depth": options.depth} if ranking.reranked else None,
        "collection": spec,
        "split": split,
        "num_docs": collection.num_docs,
        "measures": found.mean,
        "num_queries": found.num_queries,
        "num_missing": found.num_missing,
        "per_query_sha256": _per_query_hash(found),
        "latency": None if ranking.latency is None else asdict(ranking.latency),
        "seconds": round(ranking.seconds, 1),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), "rankdistill": rankdistill.__version__, **_versions()},
    }
    save_json(folder / f"{name}.json", report, indent=2)
    row: dict[str, Cell] = {"collection": slug(spec), "system": name, **found.mean, "missing": found.num_missing}
    latency = ranking.latency
    if latency is not None:
        row |= {"ms/query": f"{latency.mean_ms:.1f}", "p50": f"{latency.p50_ms:.1f}", "p95": f"{latency.p95_ms:.1f}"}
    return row


def slug(name: str | os.PathLike[str]) -> str:
    """A file name out of an id or path: ids with dashes (as lightning-ir names runs), paths by their last part."""
    text = os.path.abspath(name) if os.path.exists(name) else os.fspath(name)
    if os.path.exists(name):
        text = Path(text).name
        for suffix in (".gz", ".trec", ".run", ".txt"):
            text = text.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", text).strip("-") or "unnamed"


def _per_query_hash(evaluation: Evaluation) -> str:
    # 9 digits: what differs between machines in the last bits of a sum is the same measurement.
    values = {
        measure: {query_id: f"{value:.9f}" for query_id, value in sorted(found.items())}
        for measure, found in evaluation.per_query.items()
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, Any]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
