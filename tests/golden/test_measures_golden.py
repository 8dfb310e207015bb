"""Values worked out by hand, and trec_eval's own on the same ranks."""

from __future__ import annotations

import math

import pytest
import pytrec_eval

from rankdistill.evaluation.measures import evaluate

QRELS = {"q1": {"a": 3, "b": 2, "c": 0, "d": 1}, "q2": {"x": 1}, "q3": {"y": 2, "z": 1, "n": -1}}
RUN = {
    "q1": {"c": 5.0, "a": 4.0, "u": 3.0, "d": 2.0, "b": 1.0},
    "q2": {"v": 2.0, "w": 1.0},
    "q3": {"n": 9.0, "z": 8.0, "y": 7.0},
}


def test_by_hand() -> None:
    found = evaluate(QRELS, RUN, ["nDCG@3", "nDCG@10", "RR@10", "RR(rel=3)@10", "R@2", "AP"]).per_query
    log2 = math.log2
    # q1: gains 0 3 0 1 2; ideal 3 2 1.
    ideal = 3 + 2 / log2(3) + 1 / 2
    assert found["nDCG@3"]["q1"] == pytest.approx((3 / log2(3)) / ideal)
    assert found["nDCG@10"]["q1"] == pytest.approx((3 / log2(3) + 1 / log2(5) + 2 / log2(6)) / ideal)
    assert found["RR@10"] == {"q1": 1 / 2, "q2": 0.0, "q3": 1 / 2}
    assert found["RR(rel=3)@10"]["q1"] == 1 / 2
    assert found["R@2"]["q1"] == pytest.approx(1 / 3)
    assert found["AP"]["q1"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3)


def test_linear_gain_as_trec_eval_not_exponential() -> None:
    # With gain 2^rel - 1 this would be (1 + 7 / log2(3)) / (7 + 1 / log2(3)).
    found = evaluate({"q": {"a": 3, "b": 1}}, {"q": {"b": 2.0, "a": 1.0}}, ["nDCG@10"]).mean["nDCG@10"]
    assert found == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_trec_eval() -> None:
    names = {"nDCG@10": "ndcg_cut_10", "nDCG": "ndcg", "AP": "map", "RR": "recip_rank", "R@5": "recall_5", "P@5": "P_5"}
    theirs = pytrec_eval.RelevanceEvaluator(QRELS, {"ndcg_cut.10", "ndcg", "map", "recip_rank", "recall.5", "P.5"})
    values = theirs.evaluate(RUN)
    ours = evaluate(QRELS, RUN, names).per_query
    for measure, name in names.items():
        for query_id in QRELS:
            assert ours[measure][query_id] == pytest.approx(values[query_id][name], abs=1e-12), (measure, query_id)
