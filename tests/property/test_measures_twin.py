from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.evaluation.measures import evaluate
from tests.reference import measures as twin

DOCS = st.sampled_from([f"d{i}" for i in range(15)])
# Few distinct scores, so that ties abound; and some that only float64 tells apart.
SCORES = st.sampled_from([0.0, 1.0, 1.0 + 1e-10, -1.0, 3.5, 1e9])
RUNS = st.dictionaries(st.sampled_from("pqr"), st.dictionaries(DOCS, SCORES, min_size=1), max_size=3)
QRELS = st.dictionaries(st.sampled_from("pqr"), st.dictionaries(DOCS, st.integers(-1, 3), min_size=1), min_size=1)


@settings(max_examples=150, deadline=None)
@given(QRELS, RUNS)
def test_equals_the_twin(qrels: dict, run: dict) -> None:
    found = evaluate(qrels, run, ["nDCG@5", "RR@5", "RR(rel=2)@3", "R@4", "AP"])
    for query_id, judged in qrels.items():
        scores = run.get(query_id, {})
        expected = {
            "nDCG@5": twin.ndcg(judged, scores, 5),
            "RR@5": twin.reciprocal_rank(judged, scores, 5),
            "RR(rel=2)@3": twin.reciprocal_rank(judged, scores, 3, rel=2),
            "R@4": twin.recall(judged, scores, 4),
            "AP": twin.average_precision(judged, scores),
        }
        for measure, value in expected.items():
            assert found.per_query[measure][query_id] == pytest.approx(value, abs=1e-12), (measure, query_id)
            assert found.mean[measure] == pytest.approx(sum(found.per_query[measure].values()) / len(qrels), abs=1e-12)
    assert found.num_missing == sum(query_id not in run for query_id in qrels)
