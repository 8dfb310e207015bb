from __future__ import annotations

from pathlib import Path

import ir_measures
import pytest

from rankdistill.evaluation.measures import evaluate, parse_measures
from rankdistill.formats.trec import read_run, write_run


def test_ties_are_broken_by_doc_id_and_by_nothing_else() -> None:
    qrels = {"q": {"c": 1}}
    for order in ("abcd", "dcba", "cabd"):
        scores = dict.fromkeys(order, 1.0)
        assert evaluate(qrels, {"q": scores}, ["RR", "RR@10", "P@2"]).mean == {"RR": 1 / 3, "RR@10": 1 / 3, "P@2": 0.0}


def test_constant_scorer_gains_nothing_from_a_lucky_order() -> None:
    # The relevant document first in the dictionary, last by id: a stable sort by score alone would give 1.
    qrels = {f"q{i}": {"z": 1} for i in range(5)}
    run = {query_id: dict.fromkeys(["z", *"abcdefghi"], 0.0) for query_id in qrels}
    assert evaluate(qrels, run, ["RR@10"]).mean == {"RR@10": 0.1}


def test_scores_closer_than_float32_still_order() -> None:
    # trec_eval compares 32-bit floats, for which these are equal, and would put "b" first.
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    assert evaluate({"q": {"a": 1}}, run, ["RR", "nDCG@1"]).mean == {"RR": 1.0, "nDCG@1": 1.0}


def test_same_number_from_memory_and_from_file(tmp_path: Path) -> None:
    run = {"q": {f"d{i}": 1 / (1 + i // 3) for i in range(40)}, "p": {f"d{i}": 0.1 * (i % 4) for i in range(40)}}
    qrels = {"q": {"d5": 1, "d30": 2}, "p": {"d7": 1}}
    write_run(tmp_path / "run", run)
    measures = ["nDCG@10", "RR@10", "AP", "R@20", "RR(rel=2)@10", "Judged@10", "Success@5"]
    assert evaluate(qrels, read_run(tmp_path / "run"), measures) == evaluate(qrels, run, measures)


def test_missed_queries_count_as_zero_and_unjudged_are_ignored() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "none": {}}
    run = {"q1": {"a": 1.0}, "q2": {}, "other": {"a": 1.0}}
    found = evaluate(qrels, run, ["RR@10", "nDCG@10"])
    assert found.mean == {"RR@10": 1 / 3, "nDCG@10": 1 / 3}
    assert found.per_query["RR@10"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert (found.num_queries, found.num_missing) == (3, 2)


def test_empty_run_is_all_zeros() -> None:
    found = evaluate({"q": {"a": 1}}, {}, ["AP"])
    assert (found.mean, found.num_missing) == ({"AP": 0.0}, 1)


def test_subset_of_queries() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    found = evaluate(qrels, {"q1": {"a": 1.0}}, ["RR"], query_ids=["q1"])
    assert (found.mean, found.num_queries, found.num_missing) == ({"RR": 1.0}, 1, 0)
    with pytest.raises(ValueError, match="expected judged queries, found 1 without judgements"):
        evaluate(qrels, {}, ["RR"], query_ids=["q9"])


def test_measures_are_names_or_values() -> None:
    found = evaluate({"q": {"a": 2}}, {"q": {"a": 1.0}}, [ir_measures.nDCG @ 10, "nDCG@10", "RR(rel=2)@10"])
    assert found.mean == {"nDCG@10": 1.0, "RR(rel=2)@10": 1.0}


@pytest.mark.parametrize("name", ["nDGC@10", "", "nDCG@ten", "nDCG@10)", "import os"])
def test_unknown_measure(name: str) -> None:
    with pytest.raises(ValueError, match="expected a measure of ir_measures"):
        parse_measures([name])


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="found NaN for query 'q', document 'b'"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0, "b": float("nan")}})


def test_nothing_judged() -> None:
    with pytest.raises(ValueError, match="judgements of at least one query"):
        evaluate({"q": {}}, {"q": {"a": 1.0}})
