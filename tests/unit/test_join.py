"""Several collections as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankdistill.cli import app
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.join import join_collections, run_join
from rankdistill.formats.texts import MappingTexts, Parts
from rankdistill.options.scoring import JoinOptions


def some(count: int, split: str = "train") -> Collection:
    """Docs and queries of the same ids, each query's doc the one of its id."""
    docs = {f"{i}": f"document {i} ü" for i in range(count)}
    queries = {f"{i}": f"query {i}" for i in range(count)}
    parts = Parts(
        MappingTexts(docs, "docs"), MappingTexts(queries, "queries"), {split: lambda: {i: {i: 1} for i in queries}}
    )
    return Collection("some", parts)


def test_ids_are_told_apart_and_texts_and_judgements_stay(tmp_path: Path) -> None:
    join_collections({"a": some(3), "b": some(2)}, tmp_path)
    joined = open_collection(tmp_path)
    assert dict(joined.docs()) == {
        f"{name}:{i}": f"document {i} ü" for name, n in (("a", 3), ("b", 2)) for i in range(n)
    }
    assert set(joined.query_ids) == {"a:0", "a:1", "a:2", "b:0", "b:1"}
    assert joined.qrels("train") == {id_: {id_: 1} for id_ in joined.query_ids}


def test_a_split_of_one_of_them_is_a_split_of_all(tmp_path: Path) -> None:
    join_collections({"a": some(2, "dev"), "b": some(1, "test")}, tmp_path)
    joined = open_collection(tmp_path)
    assert list(joined.qrels("dev")) == ["a:0", "a:1"]
    assert list(joined.qrels("test")) == ["b:0"]


def test_balanced_takes_as_many_queries_of_each_by_lot(tmp_path: Path) -> None:
    counted = join_collections({"a": some(40), "b": some(5)}, tmp_path / "one", balance="train")
    assert counted.num_docs == {"a": 40, "b": 5}
    assert counted.num_judged == {"a": 5, "b": 5}
    queries = list(open_collection(tmp_path / "one").qrels("train"))
    assert sorted(query[0] for query in queries) == ["a"] * 5 + ["b"] * 5
    assert queries[:5] != [f"a:{i}" for i in range(5)]
    join_collections({"a": some(40), "b": some(5)}, tmp_path / "two", balance="train")
    assert list(open_collection(tmp_path / "two").qrels("train")) == queries
    join_collections({"a": some(40), "b": some(5)}, tmp_path / "three", balance="train", seed=1)
    assert list(open_collection(tmp_path / "three").qrels("train")) != queries


@pytest.mark.parametrize(
    ("collections", "balance", "message"),
    [
        ({"a": some(1)}, None, "expected two collections or more, found 1"),
        ({"a": some(1), "b:c": some(1)}, None, "expected names without colons and white space, found 'b:c'"),
        ({"a": some(1), "b": some(1, "test")}, "train", "b: expected a split train to balance, found test"),
    ],
)
def test_what_cannot_be_joined(
    tmp_path: Path, collections: dict[str, Collection], balance: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        join_collections(collections, tmp_path, balance=balance)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("one", 3), ("two", 2)):
        join_collections({"x": some(count), "y": some(1)}, tmp_path / name)
    arguments = [f"a={tmp_path / 'one'}", f"b={tmp_path / 'two'}", "-o", str(tmp_path / "both"), "--balance", "train"]
    with pytest.raises(SystemExit) as done:
        app(["join", *arguments])
    assert done.value.code == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "a: 4 docs, 3 queries of train",
        "b: 3 docs, 3 queries of train",
    ]
    assert len(open_collection(tmp_path / "both").qrels("train")) == 6


def test_a_collection_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected NAME=COLLECTION, each name once, found 'conala'"):
        run_join(JoinOptions(("conala",), output=tmp_path))
