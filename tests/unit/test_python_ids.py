"""Runs, judgements and texts that are made in Python: ids that are numbers, grades of other kinds, and texts that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.errors import BadDataError
from rankdistill.evaluation.entities import evaluate_entities, evaluate_pages
from rankdistill.evaluation.measures import evaluate
from rankdistill.formats.collection import collection_from_datasets, collection_from_texts, open_collection
from rankdistill.formats.queries import read_queries
from rankdistill.formats.trec import read_qrels, read_run, write_qrels, write_run
from rankdistill.models.dot import DotModel
from rankdistill.records import as_grade, as_id, as_qrels, as_run, as_texts
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search

QRELS = {"1": {"10": 1, "11": 0}, "2": {"12": 2}}
RUN = {"1": {"11": 2.0, "10": 1.0}, "2": {"12": 1.0, "10": 0.5}}
DOCS = {"10": "gas and globe", "11": "wire", "12": "globe of glass"}
QUERIES = {"1": "gas", "2": "globe"}
NUMBERS = [int, np.int64, np.int32]


@pytest.fixture(scope="module")
def dot_model(tiny_bert_dir: Path) -> DotModel:
    return DotModel.from_pretrained(tiny_bert_dir, device="cpu")


def numbered(records: dict[str, Any], kind: Callable[[str], Any]) -> dict[Any, Any]:
    return {kind(id_): numbered(value, kind) if isinstance(value, dict) else value for id_, value in records.items()}


@pytest.mark.parametrize("kind", NUMBERS)
def test_ids_that_are_numbers_are_the_strings_that_files_have(tmp_path: Path, kind: Any) -> None:
    expected = evaluate(QRELS, RUN, ["nDCG@10", "RR"])
    assert 0 < expected.mean["RR"] < 1
    qrels, run = numbered(QRELS, kind), numbered(RUN, kind)
    for judged in (QRELS, qrels):
        for found in (RUN, run):
            assert evaluate(judged, found, ["nDCG@10", "RR"]) == expected
    assert evaluate(qrels, run, ["RR"], [kind(2)]).per_query == {"RR": {"2": 1.0}}
    write_run(tmp_path / "run", run)
    assert read_run(tmp_path / "run") == RUN
    write_qrels(tmp_path / "qrels", qrels)
    assert read_qrels(tmp_path / "qrels") == QRELS
    collection = collection_from_texts(numbered(DOCS, kind), numbered(QUERIES, kind), qrels)
    assert dict(collection.docs()) == DOCS
    assert dict(collection.queries()) == QUERIES
    assert collection.qrels() == QRELS
    assert collection.fingerprint == collection_from_texts(DOCS, QUERIES, QRELS).fingerprint
    assert collection.doc_texts([kind(12), "10"]) == [DOCS["12"], DOCS["10"]]
    assert collection.doc_rows([kind(12), kind(99)]).tolist() == [2, -1]
    expected_run = BM25(DOCS, progress=False).search(QUERIES, progress=False)
    assert BM25(numbered(DOCS, kind), progress=False).search(numbered(QUERIES, kind), progress=False) == expected_run
    assert evaluate_pages({kind(1): [{"a"}]}, {"1": ["a"]}).mean["R-precision"] == 1
    assert evaluate_entities({kind(1): ["a"]}, {"1": "a"}).mean["accuracy"] == 1


@pytest.mark.parametrize("grade", [float, np.float32, np.float64, np.int64, str])
def test_grades_of_other_kinds_are_whole_numbers(grade: Any) -> None:
    qrels = {query: {doc: grade(value) for doc, value in judged.items()} for query, judged in QRELS.items()}
    assert as_qrels(qrels) == QRELS
    assert {type(value) for judged in as_qrels(qrels).values() for value in judged.values()} == {int}
    assert evaluate(qrels, RUN) == evaluate(QRELS, RUN)


def test_scores_of_other_kinds_are_floats() -> None:
    run = {"1": {"11": np.float32(2), "10": 1}, "2": {"12": np.int64(1), "10": np.float64(0.5)}}
    assert as_run(run) == RUN
    assert evaluate(QRELS, run) == evaluate(QRELS, RUN)  # type: ignore[arg-type]
    assert as_run(RUN)["1"] is RUN["1"]


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.float32(1), None, b"1", float("nan"), ("1",), ""])
def test_what_is_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="expected an id, a string or a whole number, found"):
        as_id(value)
    if value != "":
        for call in (as_run, as_qrels, as_texts):
            with pytest.raises(ValueError, match="expected an id"):
                call({value: {}} if call is not as_texts else {value: "text"})


@pytest.mark.parametrize(
    "value", [0.5, -0.1, float("nan"), float("inf"), 10**30, 1e30, 2_000_000, None, "x", "1_0", [1]]
)
def test_what_is_no_grade(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a whole number of at most 1,000,000 as relevance, found"):
        as_grade(value)
    with pytest.raises(ValueError, match="query '1', document '2': expected a whole number"):
        evaluate({1: {2: value}}, RUN)  # type: ignore[dict-item]


def test_an_id_as_a_string_and_as_a_number_is_two() -> None:
    with pytest.raises(ValueError, match="expected distinct ids, found '1' as a string and as a number"):
        as_run({"1": {}, 1: {}})
    with pytest.raises(ValueError, match="expected a mapping by id, found"):
        as_run({"1": [("d", 1.0)]})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"query '1', document 'd': expected a number as score, found '1.0'"):
        as_run({"1": {"d": "1.0"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a string as the text of 'd2', found something else: None"),
        (math.nan, "expected a string as the text of 'd2', found something else: nan"),
        (b"x", "expected a string as the text of 'd2', found something else"),
        ("a \ud800 b", "expected a string as the text of 'd2', found one with half of a surrogate pair: 'a .ud800 b'"),
    ],
)
def test_what_is_no_text_is_named(dot_model: DotModel, text: Any, message: str) -> None:
    texts = {"d1": "fine ü", "d2": text}
    index = build_index(dot_model, {"d1": "fine"}, progress=False)
    calls: list[Callable[[], Any]] = [
        lambda: collection_from_texts(texts),
        lambda: collection_from_texts({"d1": "fine"}, texts),
        lambda: BM25(texts, progress=False),
        lambda: BM25(texts.items(), progress=False),
        lambda: BM25({"d1": "fine"}, progress=False).search(texts, progress=False),
        lambda: build_index(dot_model, texts, progress=False),
        lambda: search(dot_model, index, texts, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=message.replace("of 'd2'", "number 1")):
        encode_texts(dot_model, ["fine", text], kind="query", progress=False)


@pytest.mark.parametrize("space", list(" \t\n\v\f\r"))
def test_ids_with_white_space_are_refused_at_the_door(tmp_path: Path, dot_model: DotModel, space: str) -> None:
    id_ = f"d{space}2"
    for call in (
        lambda: collection_from_texts({"d1": "x", id_: "y"}),
        lambda: collection_from_texts({}, {id_: "y"}),
        lambda: build_index(dot_model, {id_: "y"}, progress=False),
        lambda: BM25({"d": "y"}, progress=False).search({id_: "y"}, progress=False),
    ):
        with pytest.raises(
            ValueError, match="expected ids of at least one character and without white space, found 'd"
        ):
            call()
    rows = [{"_id": "d\u00a01", "text": ""}, {"_id": id_, "text": "y"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadDataError, match=r"corpus\.jsonl:2: expected ids without white space, found"):
        open_collection(tmp_path)
    (tmp_path / "queries.jsonl").write_text('{"id": "a b", "input": "x"}\n')
    with pytest.raises(BadDataError, match=r'queries\.jsonl: expected ids without white space, found "a b"'):
        read_queries(tmp_path / "queries.jsonl")


def test_a_no_break_space_is_part_of_an_id() -> None:
    assert list(collection_from_texts({"d\u00a02": "y"}).doc_ids) == ["d\u00a02"]


def test_ids_and_grades_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    docs = datasets.Dataset.from_dict({"_id": [10, 11], "text": ["a", "b"]})

    def qrels(**columns: list[Any]) -> Any:
        data = datasets.Dataset.from_dict(
            {"query-id": [1, 1], "corpus-id": ["10", "11"], "score": [1.0, 0.0]} | columns
        )
        return collection_from_datasets(docs, None, data).qrels()

    assert qrels() == {"1": {"10": 1, "11": 0}}
    assert qrels(score=["1", "2"]) == {"1": {"10": 1, "11": 2}}
    assert qrels(**{"corpus-id": [10, 10], "score": [1, 1]}) == {"1": {"10": 1}}
    for columns, message in (
        ({"score": [1.0, 0.5]}, "expected a whole number as relevance, found 0.5 for query 1, document 11"),
        ({"score": [1, None]}, "expected a whole number as relevance, found None"),
        ({"corpus-id": ["10", "10"]}, "expected one relevance for a pair, found 1 and 0 for query 1, document 10"),
        ({"query-id": ["q", None]}, "expected ids of a query and a document, strings or whole numbers, found None and"),
        (
            {"corpus-id": [1.0, 2.0]},
            "expected ids of a query and a document, strings or whole numbers, found 1 and 1.0",
        ),
    ):
        with pytest.raises(BadDataError, match=message):
            qrels(**columns)
    for ids in ([1.0, 2.0], ["a", None], [True, False]):
        bad = collection_from_datasets(datasets.Dataset.from_dict({"_id": ids, "text": ["a", "b"]}))
        with pytest.raises(BadDataError, match=r'expected ids, strings or whole numbers, in the column "_id", found'):
            len(bad.doc_ids)
    texts = collection_from_datasets(datasets.Dataset.from_dict({"_id": ["a", "b"], "text": ["a", None]}))
    with pytest.raises(BadDataError, match='expected a string in the column "text" of "b", found None'):
        dict(texts.docs())


def test_a_run_with_numbers_as_ids_is_reranked(dot_model: DotModel) -> None:
    collection = collection_from_texts(DOCS, QUERIES)
    expected = rerank(dot_model, collection, RUN, progress=False)
    assert rerank(dot_model, collection, numbered(RUN, int), progress=False) == expected
    index = build_index(dot_model, numbered(DOCS, int), progress=False)
    found = search(dot_model, index, numbered(QUERIES, int), 2, progress=False)
    assert found == search(dot_model, build_index(dot_model, DOCS, progress=False), QUERIES, 2, progress=False)
