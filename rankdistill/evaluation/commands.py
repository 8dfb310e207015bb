"""`rankdistill evaluate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ir_measures import Qrel

from rankdistill.errors import NothingDoneError
from rankdistill.evaluation.measures import Evaluation, evaluate, needs_subtopics, parse_measures
from rankdistill.evaluation.report import evaluation_rows, render_table
from rankdistill.evaluation.significance import Comparison, compare
from rankdistill.formats.subtopics import any_relevant, read_subtopics
from rankdistill.formats.terminal import say
from rankdistill.formats.trec import read_qrels, read_run
from rankdistill.formats.writing import replacing, save_json
from rankdistill.options.retrieval import EvaluateOptions
from rankdistill.records import Qrels

__all__ = ["run_evaluate"]


def run_evaluate(options: EvaluateOptions) -> tuple[dict[str, Evaluation], list[Comparison]]:
    """Prints a table of the runs' measures, and with several runs the p-values against the baseline.

    Returns:
        name of a run (its file's name, as much of its path as tells it from the others) -> evaluation, and the
        comparisons, corrected for each measure on its own.

    Raises:
        ValueError: no run, neither or both of qrels and collection, an unknown measure, or a baseline that isn't a run.
    """
    if not options.runs:
        raise ValueError("expected at least one run, found none")
    baseline_path = options.runs[0] if options.baseline is None else options.baseline
    paths = list(dict.fromkeys([*options.runs, baseline_path]))
    names = dict(zip(paths, _short_names(paths), strict=True))
    qrels, subtopics = _judgements(options)
    evaluations = {
        names[path]: evaluate(qrels, read_run(path), options.measures, subtopics=subtopics) for path in paths
    }
    for path in paths:
        evaluation = evaluations[names[path]]
        remedy = "check that the run's ids are those of the judgements"
        NothingDoneError.check(
            evaluation.num_queries - evaluation.num_missing, "judged query with documents", path, remedy
        )
    baseline = names[baseline_path]
    comparisons = [
        comparison
        for measure in next(iter(evaluations.values())).mean
        for comparison in compare(evaluations, baseline, measure, options.test, options.correction)
    ]
    say(render_table(evaluation_rows(evaluations, comparisons, options.alpha), options.style))
    if comparisons:
        test = {"t": "paired t-test", "randomisation": "randomisation test"}[options.test]
        say(f"\nAgainst {baseline}, {test}, correction: {options.correction}; ⁺ better, ⁻ worse at p < {options.alpha}")
        columns = ("system", "measure", "difference", "wins", "losses", "p_value", "p_corrected")
        rows = [{name: asdict(comparison)[name] for name in columns} for comparison in comparisons]
        say(render_table(rows, options.style))
    first = next(iter(evaluations.values()))
    say(f"\n{first.num_queries:,} judged queries; those that a run lacks count as 0")
    if options.per_query is not None:
        _write_per_query(options.per_query, evaluations)
        say(f"wrote the values of each query to {options.per_query}")
    if options.json is not None:
        systems = {
            name: {"mean": each.mean, "num_queries": each.num_queries, "num_missing": each.num_missing}
            for name, each in evaluations.items()
        }
        report = {"systems": systems, "baseline": baseline, "comparisons": [asdict(each) for each in comparisons]}
        save_json(options.json, report, indent=2)
        say(f"wrote means and comparisons to {options.json}")
    return evaluations, comparisons


def _judgements(options: EvaluateOptions) -> tuple[Qrels, list[Qrel]]:
    """Judgements of documents, and those of subtopics where a measure needs them."""
    if (options.qrels is None) == (options.collection is None):
        raise ValueError("expected judgements from either --qrels or --collection")
    of_subtopics = [needs_subtopics(measure) for measure in parse_measures(options.measures)]
    if options.qrels is not None:
        subtopics = read_subtopics(options.qrels) if any(of_subtopics) else []
        # A document may have another relevance for each subtopic, which judgements of documents can't say.
        return any_relevant(subtopics) if subtopics and all(of_subtopics) else read_qrels(options.qrels), subtopics
    from rankdistill.formats.collection import open_collection

    assert options.collection is not None
    return open_collection(options.collection).qrels(options.split), []


def _short_names(paths: list[Path]) -> list[str]:
    """The files' names, with parent folders where names alone would be the same."""
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if max(Counter(names).values()) == 1 or depth >= max(len(path.parts) for path in paths):
            return names
        depth += 1


def _write_per_query(path: Path, evaluations: dict[str, Evaluation]) -> None:
    with replacing(path) as file:
        file.write(b"system\tquery_id\tmeasure\tvalue\n")
        for name, evaluation in evaluations.items():
            for measure, values in evaluation.per_query.items():
                lines = (f"{name}\t{query_id}\t{measure}\t{value!r}\n" for query_id, value in values.items())
                file.write("".join(lines).encode())
