"""Measures of a run as values, by ir_measures, under one tie rule.

Providers of measures part ways on ties: trec_eval sorts equal scores by doc_id descending and compares scores as 32-bit
floats, others keep the order of the file or of the dictionary. So a run is put in the package's order first
(`records.ranked`: score descending, then doc_id ascending), and its ranks are what the providers get to see. The
number is then the same from memory, from a file, and from any provider. For the same reason providers see queries by number:
gdeval takes numbers only, and reads "2019-7" and "2020-7" as one query.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
from ir_measures.measures.base import SumAgg

from rankdistill.errors import MissingDependencyError
from rankdistill.records import Qrels, Run, as_id, as_qrels, as_run

__all__ = ["DEFAULT_MEASURES", "Evaluation", "evaluate", "needs_subtopics", "parse_measures"]

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "R@100")
_EXAMPLE = 'expected a measure of ir_measures such as "nDCG@10" or "AP(rel=2)", found'
# gdeval's gains are out of 16, and it stops at a relevance that would exceed them.
_GDEVAL_HIGHEST = 4


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        mean: measure -> mean over the queries; of a count (NumQ, NumRel, NumRet) the sum, as trec_eval reports it.
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
    *,
    subtopics: Iterable[ir_measures.Qrel] = (),
) -> Evaluation:
    """Computes measures for each judged query, and their means.

    The queries are those of the judgements (all that have any, as trec_eval -c counts): one that the run lacks counts
    as 0, one that only the run has is ignored. nDCG's gain is the relevance itself, as in trec_eval.

    Args:
        qrels: the judgements. Ids that are whole numbers become strings, here and in the run; grades such as 1.0 whole numbers.
        run: scores; order and size of the scores within a query matter, nothing else.
        measures: ir_measures' names ("nDCG@10", "RR(rel=2)@10", "AP", "R@100") or objects.
        query_ids: only these queries; each must be judged.
        subtopics: judgements of queries' subtopics (`formats.subtopics.read_subtopics`), for measures of diversity such as
            "alpha_nDCG@10" and "ERR_IA@20".

    Raises:
        ValueError: an unknown measure, or one that these judgements don't allow; no query to average over, a query_id without
            judgements, a score that is NaN, or what is no id, grade or score.
        MissingDependencyError: the package that computes a measure isn't installed.
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
    ranks = {query_id: _ranks(query_id, run[query_id]) for query_id in judged if run.get(query_id)}
    per_query: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(judged, 0.0) for measure in parsed}
    if ranks:
        for metric in _metrics(parsed, judged, ranks, list(subtopics)):
            per_query[str(metric.measure)][metric.query_id] = float(metric.value)
    mean = {}
    for measure in parsed:
        values = per_query[str(measure)].values()
        is_count = isinstance(measure.aggregator(), SumAgg)
        mean[str(measure)] = math.fsum(values) / (1 if is_count else len(values))
    return Evaluation(mean, per_query, num_queries=len(judged), num_missing=len(judged) - len(ranks))


def needs_subtopics(measure: ir_measures.Measure) -> bool:
    """Whether a measure is one of diversity, which judgements of subtopics are needed for."""
    return any(measure.NAME == known.NAME for known in ir_measures.pyndeval.SUPPORTED_MEASURES)


def parse_measures(measures: Iterable[str | ir_measures.Measure]) -> list[ir_measures.Measure]:
    """Measures as ir_measures' objects, each once, in the given order.

    Raises:
        ValueError: a name that ir_measures doesn't know, or parameters that it doesn't compute the measure with.
        MissingDependencyError: the package that computes a measure isn't installed.
    """
    parsed = {}
    for measure in measures:
        value = _parsed(measure)
        parsed[str(value)] = value
    return list(parsed.values())


def _parsed(measure: str | ir_measures.Measure) -> ir_measures.Measure:
    try:
        value = ir_measures.parse_measure(measure) if isinstance(measure, str) else measure
        parameters = value.params
    except (NameError, ValueError, SyntaxError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{_EXAMPLE} {str(measure)!r}") from None
    shown = repr(measure) if isinstance(measure, str) else value.NAME
    if value.NAME == "Accuracy":
        # Its mean is over the queries with a relevant document in the run, and it isn't defined where all are relevant.
        raise ValueError(f"{_EXAMPLE} {shown}, whose mean is over other queries than those judged")
    known = value.SUPPORTED_PARAMS
    if unknown := parameters.keys() - known.keys():
        raise ValueError(f"expected parameters of {value.NAME} ({', '.join(known)}), found {min(unknown)} in {shown}")
    for name, kind in known.items():
        if kind.required and name not in parameters:
            example = f"{value.NAME}@10" if name == value.AT_PARAM else f"{value.NAME}({name}=…)"
            raise ValueError(f'expected a measure with its {name}, as in "{example}", found {shown}')
        if name in parameters and not kind.validate(parameters[name]):  # type: ignore[no-untyped-call]
            raise ValueError(f"expected another {name}, found {parameters[name]!r} in {shown}")
    # trec_eval ends the whole process at a cutoff of 0, and refuses a relevance below 1.
    for name in ("cutoff", "rel"):
        if name in parameters and parameters[name] < 1:
            raise ValueError(f"expected {name} of at least 1, found {parameters[name]} in {shown}")
    providers = [provider for provider in ir_measures.DefaultPipeline.providers if provider.supports(value)]
    if not providers:
        computed = [
            f"{form} ({provider.NAME})"
            for provider in ir_measures.DefaultPipeline.providers
            for form in provider.SUPPORTED_MEASURES
            if form.NAME == value.NAME
        ]
        raise ValueError(f"{_EXAMPLE} {shown}; ir_measures computes it as {' or '.join(computed)}")
    if not any(provider.is_available() for provider in providers):
        names = " or ".join(provider.NAME for provider in providers)
        remedy = " or ".join(str(provider.install_instructions()) for provider in providers)
        raise MissingDependencyError(f"{names}, with which ir_measures computes {value}", "none installed", remedy)
    return value


def _metrics(
    measures: Sequence[ir_measures.Measure],
    judged: Qrels,
    ranks: Mapping[str, dict[str, float]],
    subtopics: Sequence[ir_measures.Qrel],
) -> Iterator[ir_measures.Metric]:
    """Values of the measures for the queries of `ranks`, perhaps with 0 for others."""
    number_of = {query_id: str(number) for number, query_id in enumerate(judged)}
    names = list(judged)
    numbered_qrels = {number_of[query_id]: docs for query_id, docs in judged.items()}
    numbered_run = {number_of[query_id]: docs for query_id, docs in ranks.items()}
    by_subtopic = [row._replace(query_id=number_of[row.query_id]) for row in subtopics if row.query_id in number_of]
    plain = [measure for measure in measures if not needs_subtopics(measure)]
    # pyndeval's provider reads the run once, whatever it's asked for: one measure of diversity at a time.
    jobs: list[tuple[list[ir_measures.Measure], Any]] = [(plain, numbered_qrels)] if plain else []
    jobs += [([measure], by_subtopic) for measure in measures if needs_subtopics(measure)]
    for some, judgements in jobs:
        if not judgements:
            raise ValueError(
                f"expected judgements of subtopics for {some[0]}, found none; they are the second column of TREC qrels"
                " (pass --qrels with such a file)"
            )
        try:
            metrics = list(ir_measures.iter_calc(some, judgements, numbered_run))
        except (TypeError, ArithmeticError, RuntimeError, subprocess.CalledProcessError) as error:
            found = str(error)
            highest = max(max(docs.values()) for docs in judged.values())
            if isinstance(error, subprocess.CalledProcessError) and highest > _GDEVAL_HIGHEST:
                found = f"{highest}, which gdeval doesn't take"
            shown = ", ".join(map(str, some))
            raise ValueError(f"expected judgements that {shown} can be computed of, found {found}") from error
        yield from (metric._replace(query_id=names[int(metric.query_id)]) for metric in metrics)


def _ranks(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The docs of one query in `records.ranked`'s order, with strictly decreasing whole numbers as scores."""
    if any(score != score for score in scores.values()):
        doc_id = next(doc_id for doc_id, score in scores.items() if score != score)
        raise ValueError(f"expected scores that order documents, found NaN for query {query_id!r}, document {doc_id!r}")
    # Two sorts in C instead of one with a Python key: the second is stable, so ties stay by doc_id.
    order: Sequence[str] = sorted(sorted(scores), key=scores.__getitem__, reverse=True)
    return dict(zip(order, map(float, range(len(order), 0, -1)), strict=True))
