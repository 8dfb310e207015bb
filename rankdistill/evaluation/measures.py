"""Measures of a run as values, by ir_measures, under one tie rule.

Providers of measures part ways on ties: trec_eval sorts equal scores by doc_id descending and compares scores as 32-bit
floats, others keep the order of the file or of the dictionary. So a run is put in the package's order first
(`records.ranked`: score descending, then doc_id ascending), and its ranks are what the providers get to see. The
number is then the same from memory, from a file, and from any provider.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures

from rankdistill.records import Qrels, Run, as_id, as_qrels, as_run

__all__ = ["DEFAULT_MEASURES", "Evaluation", "evaluate", "parse_measures"]

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "R@100")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        mean: measure -> mean over the queries.
        per_query: measure -> query_id -> value; the same queries for each measure.
        num_queries: how many queries the means are over.
        num_missing: how many of these the run lacks; they count with the measure's default, 0.
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    num_queries: int
    num_missing: int


def evaluate(
    qrels: Qrels,
    run: Run,
    measures: Iterable[str | ir_measures.Measure] = DEFAULT_MEASURES,
    query_ids: Iterable[str] | None = None,
) -> Evaluation:
    """Computes measures for each judged query, and their means.

    The queries are those of the judgements (all that have any, as trec_eval -c counts): one that the run lacks counts
    as 0, one that only the run has is ignored. nDCG's gain is the relevance itself, as in trec_eval.

    Args:
        qrels: the judgements. Ids that are whole numbers become strings, here and in the run; grades such as 1.0 whole numbers.
        run: scores; order and size of the scores within a query matter, nothing else.
        measures: ir_measures' names ("nDCG@10", "RR(rel=2)@10", "AP", "R@100") or objects.
        query_ids: only these queries; each must be judged.

    Raises:
        ValueError: an unknown measure, no query to average over, a query_id without judgements, a score that is NaN, or what is no
            id, grade or score.
    """
    parsed = parse_measures(measures)
    run = as_run(run)
    judged = {query_id: docs for query_id, docs in as_qrels(qrels).items() if docs}
    if query_ids is not None:
        wanted = dict.fromkeys(map(as_id, query_ids))
        if unjudged := [query_id for query_id in wanted if query_id not in judged]:
            raise ValueError(
                f"expected judged queries, found {len(unjudged)} without judgements (first: {unjudged[0]!r})"
            )
        judged = {query_id: judged[query_id] for query_id in wanted}
    if not judged:
        raise ValueError("expected judgements of at least one query, found none")
    found = {query_id: _ranks(query_id, run[query_id]) for query_id in judged if run.get(query_id)}
    per_query: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(judged, 0.0) for measure in parsed}
    for metric in ir_measures.iter_calc(parsed, judged, found) if found else ():
        per_query[str(metric.measure)][metric.query_id] = float(metric.value)
    mean = {measure: math.fsum(values.values()) / len(values) for measure, values in per_query.items()}
    return Evaluation(mean, per_query, num_queries=len(judged), num_missing=len(judged) - len(found))


def parse_measures(measures: Iterable[str | ir_measures.Measure]) -> list[ir_measures.Measure]:
    """Measures as ir_measures' objects, each once, in the given order.

    Raises:
        ValueError: a name that ir_measures doesn't know or has no provider for.
    """
    parsed = {}
    for measure in measures:
        try:
            value = ir_measures.parse_measure(measure) if isinstance(measure, str) else measure
            supported = ir_measures.DefaultPipeline.supports(value)  # type: ignore[no-untyped-call]
        except (NameError, ValueError, SyntaxError, TypeError, KeyError, AttributeError):
            supported = False
        if not supported:
            raise ValueError(
                f'expected a measure of ir_measures such as "nDCG@10" or "AP(rel=2)", found {str(measure)!r}'
            )
        parsed[str(value)] = value
    return list(parsed.values())


def _ranks(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The docs of one query in `records.ranked`'s order, with strictly decreasing whole numbers as scores."""
    if any(score != score for score in scores.values()):
        doc_id = next(doc_id for doc_id, score in scores.items() if score != score)
        raise ValueError(f"expected scores that order documents, found NaN for query {query_id!r}, document {doc_id!r}")
    # Two sorts in C instead of one with a Python key: the second is stable, so ties stay by doc_id.
    order: Sequence[str] = sorted(sorted(scores), key=scores.__getitem__, reverse=True)
    return dict(zip(order, map(float, range(len(order), 0, -1)), strict=True))
