"""Measures that another package computes, of subtopics, and counts: as ir_measures gives them for the same files, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import pytest

from rankdistill.errors import BadDataError, MissingDependencyError
from rankdistill.evaluation.commands import run_evaluate
from rankdistill.evaluation.measures import evaluate, parse_measures
from rankdistill.formats.subtopics import read_subtopics
from rankdistill.formats.trec import read_qrels, read_run
from rankdistill.options.retrieval import EvaluateOptions

RUN = "".join(
    f"{query} Q0 {doc} {rank} {10 - rank} x\n"
    for query, docs in {"1": "abcd", "2": "xyz", "4": "ab"}.items()
    for rank, doc in enumerate(docs, 1)
)
QRELS = "1 0 b 4\n1 0 c 1\n1 0 q 2\n2 0 z 3\n2 0 x 0\n3 0 m 1\n4 0 a 0\n"


def _files(folder: Path, qrels: str = QRELS) -> tuple[Path, Path]:
    (folder / "qrels").write_text(qrels)
    (folder / "run").write_text(RUN)
    return folder / "qrels", folder / "run"


@pytest.mark.parametrize(
    "name",
    [
        "ERR@20",
        "ERR@2",
        "nDCG(dcg='exp-log2')@10",
        "NumRet",
        "NumRet(rel=1)",
        "NumRel",
        "NumQ",
        "Compat",
        "Judged@3",
        "nDCG",
    ],
)
def test_equals_ir_measures_on_the_same_files(tmp_path: Path, name: str) -> None:
    qrels, run = _files(tmp_path)
    measure = ir_measures.parse_measure(name)
    theirs = measure.calc(list(ir_measures.read_trec_qrels(str(qrels))), list(ir_measures.read_trec_run(str(run))))
    ours = evaluate(read_qrels(qrels), read_run(run), [name])
    assert ours.mean[str(measure)] == pytest.approx(theirs.aggregated, abs=1e-12)
    assert ours.per_query[str(measure)] == pytest.approx({m.query_id: m.value for m in theirs.per_query}, abs=1e-12)


def test_err_by_its_definition_for_any_query_id() -> None:
    # gdeval reads numbers only, and takes what precedes a hyphen away.
    qrels = {"2019-7": {"a": 3}, "2020-7": {"b": 1}, "q": {"a": 4, "b": 2}}
    run = {query_id: {"a": 2.0, "b": 1.0} for query_id in qrels}
    values = evaluate(qrels, run, ["ERR@10"]).per_query["ERR@10"]
    stop = {grade: (2**grade - 1) / 16 for grade in range(5)}
    expected = {"2019-7": stop[3], "2020-7": stop[1] / 2, "q": stop[4] + (1 - stop[4]) * stop[2] / 2}
    assert values == pytest.approx(expected, abs=1e-5)  # gdeval prints five digits


def test_what_gdeval_cannot_take_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"judgements that ERR@10 can be computed of, found 5, which gdeval"):
        evaluate({"q": {"a": 5}}, {"q": {"a": 1.0}}, ["ERR@10"])


@pytest.mark.parametrize(
    ("name", "package"), [("alpha_nDCG@10", "pyndeval"), ("RBP(rel=1)", "cwl_eval"), ("INST(max_rel=3)", "cwl_eval")]
)
def test_a_missing_provider_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_measures.providers.registry[package], "_is_available", False)
    with pytest.raises(MissingDependencyError, match=rf"expected {package}.*none installed; pip install ir-measures"):
        parse_measures([name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P", 'with its cutoff, as in "P@10"'),
        ("INST", r'with its max_rel, as in "INST\(max_rel=…\)"'),
        ("ERR", r"ir_measures computes it as ERR@REQUIRED \(gdeval\)"),
        ("NumRel(rel=2)", r"ir_measures computes it as NumRel\(rel=1\)"),
        ("nDCG(gain=1)@3", "expected parameters of nDCG"),
        ("nDCG@'3'", "expected another cutoff"),
        ("AP@0", "cutoff of at least 1"),  # trec_eval ends the process
        ("P(rel=0)@3", "rel of at least 1"),
        ("Accuracy", "whose mean is over other queries"),
    ],
)
def test_what_no_provider_computes_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_measures([name])


class _Ndeval:
    """Stands in for pyndeval: alpha-nDCG by its definition (Clarke et al. 2008), with the greedy ideal ranking."""

    SubtopicQrel = staticmethod(lambda **columns: SimpleNamespace(**columns))

    class RelevanceEvaluator:
        def __init__(self, qrels: list[Any], measures: Any, *, relevance_level: int, alpha: float, beta: float) -> None:
            self.measures, self.alpha = list(measures), alpha
            self.of: dict[str, dict[str, set[str]]] = {}
            self.subtopics = {row.subtopic_id for row in qrels}
            for row in qrels:
                docs = self.of.setdefault(row.query_id, {})
                docs.setdefault(row.doc_id, set())
                if row.relevance >= relevance_level:
                    docs[row.doc_id].add(row.subtopic_id)

        def has_multiple_subtopics(self, _: str) -> bool:
            return len(self.subtopics) > 1

        def _dcg(self, docs: dict[str, set[str]], order: list[str]) -> float:
            seen: dict[str, int] = {}
            total = 0.0
            for rank, doc in enumerate(order, 1):
                for subtopic in docs.get(doc, ()):
                    total += (1 - self.alpha) ** seen.get(subtopic, 0) / math.log2(rank + 1)
                    seen[subtopic] = seen.get(subtopic, 0) + 1
            return total

        def evaluate_iter(self, run: Any) -> Iterator[dict[str, Any]]:
            order: dict[str, list[str]] = {}
            for row in run:
                order.setdefault(row.query_id, []).append(row.doc_id)
            for query_id, docs in self.of.items():
                values: dict[str, Any] = {"query_id": query_id}
                for measure in self.measures:
                    cutoff = int(measure.split("@")[1])
                    ideal: list[str] = []
                    for _ in range(min(cutoff, len(docs))):
                        ideal.append(max(sorted(docs.keys() - set(ideal)), key=lambda d: self._dcg(docs, [*ideal, d])))
                    values[measure] = self._dcg(docs, order.get(query_id, [])[:cutoff]) / self._dcg(docs, ideal)
                if query_id in order:
                    yield values


@pytest.fixture
def ndeval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_measures.pyndeval, "pyndeval", _Ndeval)
    monkeypatch.setattr(ir_measures.pyndeval, "_is_available", True)


SUBTOPICS = "1 1 a 1\n1 2 a 0\n1 1 b 1\n1 2 c 1\n1 3 c 1\n2 1 z 1\n2 2 y 2\n3 1 m 1\n"


@pytest.mark.usefixtures("ndeval")
def test_subtopics_reach_measures_of_diversity(tmp_path: Path) -> None:
    qrels, run = _files(tmp_path, SUBTOPICS)
    names = ("alpha_nDCG@3", "alpha_nDCG(alpha=0.2)@3")
    theirs = [
        ir_measures.parse_measure(name).calc_aggregate(
            list(ir_measures.read_trec_qrels(str(qrels))), list(ir_measures.read_trec_run(str(run)))
        )
        for name in names
    ]
    # By hand: query 1 gains 1, 1/2, 2 at ranks 1 to 3, ideally 2, 1, 1/2; query 2 gains 0, 1, 1; the run lacks query 3.
    log2 = math.log2
    first = (1 + 0.5 / log2(3) + 2 / 2) / (2 + 1 / log2(3) + 0.5 / 2)
    assert theirs[0] == pytest.approx((first + (1 / log2(3) + 1 / 2) / (1 + 1 / log2(3))) / 3)
    evaluations, _ = run_evaluate(EvaluateOptions(runs=(run,), qrels=qrels, measures=names))
    assert list(evaluations["run"].mean.values()) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.usefixtures("ndeval")
def test_measures_of_diversity_need_subtopics(tmp_path: Path) -> None:
    qrels, run = _files(tmp_path)
    assert read_subtopics(qrels) == []
    with pytest.raises(ValueError, match="judgements of subtopics for alpha_nDCG@3, found none"):
        run_evaluate(EvaluateOptions(runs=(run,), qrels=qrels, measures=("alpha_nDCG@3", "RR")))


def test_broken_subtopics_name_the_line(tmp_path: Path) -> None:
    qrels, _ = _files(tmp_path, "1 1 a 1\n\n1 2 b\n")
    with pytest.raises(BadDataError, match=r"qrels:3: expected 4 columns"):
        read_subtopics(qrels)
