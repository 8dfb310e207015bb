"""Files that we write, read by ir_measures, ranx and trec_eval's binding."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import pytest

from rankdistill.evaluation.measures import evaluate
from rankdistill.formats.trec import write_qrels, write_run

RUN = {
    "q1": {f"d{i}": 10.0 - i / 3 for i in range(20)},
    "q2": {f"d{i}": float(i % 7) + i / 1000 for i in range(30)},
    "q3": {"d1": 0.25},
}
QRELS = {"q1": {"d3": 1, "d11": 2}, "q2": {"d6": 1, "d5": 0, "d99": 3}, "q3": {"d2": 1}}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    write_run(tmp_path / "run.trec", RUN)
    write_qrels(tmp_path / "qrels.txt", QRELS)
    return str(tmp_path / "run.trec"), str(tmp_path / "qrels.txt")


def test_ir_measures(files: tuple[str, str]) -> None:
    found: dict[str, dict[str, float]] = {}
    for doc in ir_measures.read_trec_run(files[0]):
        found.setdefault(doc.query_id, {})[doc.doc_id] = doc.score
    assert found == RUN
    judged: dict[str, dict[str, int]] = {}
    for qrel in ir_measures.read_trec_qrels(files[1]):
        judged.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    assert judged == QRELS


def test_pytrec_eval(files: tuple[str, str]) -> None:
    import pytrec_eval

    with open(files[0]) as run, open(files[1]) as qrels:
        found = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.10", "map"}).evaluate(
            pytrec_eval.parse_run(run)
        )
    ours = evaluate(QRELS, RUN, ["nDCG@10", "AP"]).per_query
    for query_id, values in found.items():
        assert values["ndcg_cut_10"] == pytest.approx(ours["nDCG@10"][query_id], abs=1e-12)
        assert values["map"] == pytest.approx(ours["AP"][query_id], abs=1e-12)


def test_ranx(files: tuple[str, str]) -> None:
    from ranx import Qrels, Run

    assert Run.from_file(files[0], kind="trec").to_dict() == RUN
    assert Qrels.from_file(files[1], kind="trec").to_dict() == QRELS
