"""Tables of an experiment's runs, with tests, and the file that they are kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from facts import facts
from study import Study

from rankdistill.evaluation.measures import Evaluation, evaluate
from rankdistill.evaluation.significance import compare
from rankdistill.records import Qrels, Run, ranked

RESULTS = Path(__file__).parent / "results"
MEASURES = ("nDCG@10", "RR@10", "R@100")


def table(
    qrels: Qrels, runs: Mapping[str, Sequence[Run]], baselines: Mapping[str, str], measures: Sequence[str] = MEASURES
) -> list[dict[str, Any]]:
    """Measures of each system, and whether it differs from its baseline in nDCG@10 (randomisation test, Holm-corrected).

    Args:
        runs: one for each seed, by the system's label; what's tested is each query's mean over them.
        baselines: label -> label of the system that it is compared with. Those of one baseline share a correction.
    """
    evaluations = {label: _mean([evaluate(qrels, run, measures) for run in each]) for label, each in runs.items()}
    compared = {}
    for baseline in dict.fromkeys(baselines.values()):
        those = [label for label, its in baselines.items() if its == baseline != label]
        chosen = {label: evaluations[label] for label in (baseline, *those)}
        for entry in compare(chosen, baseline=baseline, measure="nDCG@10", test="randomisation"):
            compared[entry.system] = entry
    rows = []
    for label, evaluation in evaluations.items():
        against = compared.get(label)
        values = sorted(evaluation.per_query["nDCG@10"].items())
        by_seed = [evaluate(qrels, run, ["nDCG@10"]).mean["nDCG@10"] for run in runs[label]]
        rows.append(
            {
                "system": label,
                **evaluation.mean,
                "baseline": baselines.get(label),
                "p": None if against is None else against.p_corrected,
                "wins": None if against is None else against.wins,
                "losses": None if against is None else against.losses,
                "by_seed": by_seed,
                "per_query_hash": hashlib.sha256(repr(values).encode()).hexdigest()[:16],
            }
        )
    return rows


def shallow(qrels: Qrels, run: Run, candidates: Run, depth: int = 10) -> float:
    """nDCG@10 of the first `depth` candidates as a run orders them: what is lost by re-ranking more."""
    first = {
        query_id: {doc_id: run[query_id][doc_id] for doc_id, _ in ranked(docs, depth)}
        for query_id, docs in candidates.items()
    }
    return evaluate(qrels, first, ["nDCG@10"]).mean["nDCG@10"]


def agreement(run: Run, teacher: Run) -> float:
    """Pearson's correlation of a query's scores with a teacher's, of the same docs; the mean over queries of two docs and more."""
    found = []
    for query_id, docs in teacher.items():
        theirs, its = np.array(list(docs.values())), np.array([run[query_id][doc_id] for doc_id in docs])
        if theirs.std() > 0 and its.std() > 0:
            found.append(float(np.corrcoef(theirs, its)[0, 1]))
    return float(np.mean(found))


def _mean(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Each query's mean over seeds."""
    first = evaluations[0]
    per_query = {
        measure: {query: float(np.mean([each.per_query[measure][query] for each in evaluations])) for query in values}
        for measure, values in first.per_query.items()
    }
    mean = {measure: float(np.mean([each.mean[measure] for each in evaluations])) for measure in first.mean}
    return replace(first, mean=mean, per_query=per_query)


def write_result(name: str, study: Study, started: float, **parts: Any) -> None:
    """Writes eval/results/<name>.json, with what is needed to repeat it; named by what isn't as the collection's setting says."""
    name += study.mark + ("-held-out" if study.held_out else "")
    name += (f"-{study.num_epochs:g}-epochs" if study.num_epochs else "") + (f"-{study.suffix}" if study.suffix else "")
    result = {
        "collection": study.name,
        "setting": vars(study.setting),
        "num_layers": study.num_layers,
        "learning_rate": study.learning_rate,
        "dropout": 0.0,
        "held_out": study.held_out,
        "num_docs": study.num_docs,
        "num_epochs": study.student_epochs,
        "num_test_queries": len(study.qrels),
        **parts,
        **facts(started),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
