"""Conversions: worked examples of each format, round trips, the ecosystem's own readers, one test a message."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.cli import app
from rankdistill.data.scores import open_scores
from rankdistill.data.scores_convert import ConvertReport, convert_scores
from rankdistill.errors import BadDataError, MissingDependencyError, MissingIdsError
from rankdistill.formats.collection import collection_from_texts
from rankdistill.formats.scores import write_scores

IDS = "3.0\t1.0\tq1\ta\tb\n3.0\t2.5\tq1\ta\tc\n0.0\t-4.0\t7\ta\tb\n"
ROWS = [
    {"query_id": "400296", "positive_id": "1540783", "negative_id": "3518497", "score": 4.028059},
    {"query_id": "662731", "positive_id": "193249", "negative_id": "2975302", "score": 10.181454},
    {"query_id": "294432", "positive_id": "2592502", "negative_id": "2592504", "score": -1.826312},
]
"""Of sentence-transformers/msmarco, bert-ensemble-margin-mse."""
HARD = {
    "qid": "1185869",
    "pos": [{"pid": "0", "ce-score": 9.06}, {"pid": "5", "ce-score": 8.5}],
    "neg": {
        "bm25": [{"pid": "2942565", "ce-score": 1.25}, {"pid": "17", "ce-score": -3.0}],
        "dense": [{"pid": "17", "ce-score": -3.0}, {"pid": "18", "ce-score": 0.5}],
    },
}
"""The layout of sbert.net/datasets/msmarco-hard-negatives.jsonl.gz, as BEIR's training examples read it."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scores.tsv"
    path.write_text(IDS)
    return path


def convert(source: Path, name: str, to: str, **options: Any) -> tuple[Path, ConvertReport]:
    out = source.with_name(name)
    report = convert_scores(source, out, to, progress=False, **options)  # type: ignore[arg-type]
    return out, report


def lines(path: Path) -> list[Any]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


def test_each_format(source: Path) -> None:
    assert convert(source, "m", "margin")[0].read_text() == "q1\ta\tb\t2.0\nq1\ta\tc\t0.5\n7\ta\tb\t4.0\n"
    assert lines(convert(source, "n", "nway")[0]) == [
        ["q1", ["a", 3.0], ["b", 1.0]],
        ["q1", ["a", 3.0], ["c", 2.5]],
        [7, ["a", 0.0], ["b", -4.0]],
    ]
    assert lines(convert(source, "h.jsonl", "hf-margin")[0])[2] == {
        "query_id": "7",
        "positive_id": "a",
        "negative_id": "b",
        "score": 4.0,
    }
    assert lines(convert(source, "p.jsonl.gz", "pylate")[0])[1] == {
        "query_id": "q1",
        "document_ids": ["a", "c"],
        "scores": [3.0, 2.5],
    }
    out, report = convert(source, "s.jsonl", "hard-negatives", system="bert")
    assert lines(out) == [
        {
            "qid": "q1",
            "pos": [{"pid": "a", "ce-score": 3.0}],
            "neg": {"bert": [{"pid": "b", "ce-score": 1.0}, {"pid": "c", "ce-score": 2.5}]},
        },
        {"qid": "7", "pos": [{"pid": "a", "ce-score": 0.0}], "neg": {"bert": [{"pid": "b", "ce-score": -4.0}]}},
    ]
    assert report.render() == f"{out}: 2 rows (hard-negatives, from ids)"
    assert {path.name for path in source.parent.iterdir()} == {
        "scores.tsv",
        "m",
        "n",
        "h.jsonl",
        "p.jsonl.gz",
        "s.jsonl",
    }


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("nway", "x"),
        ("nway", "x.zst"),
        ("pylate", "x.jsonl"),
        ("pylate", "x.jsonl.gz"),
        ("pylate", "x.parquet"),
        ("hard-negatives", "x.jsonl.gz"),
    ],
)
def test_pair_scores_come_back(source: Path, to: str, name: str) -> None:
    there, _ = convert(source, name, to)
    back, report = convert(there, "back.tsv.gz", "ids")
    assert gzip.decompress(back.read_bytes()).decode() == IDS
    assert report.source == to


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_margins_come_back(tmp_path: Path, name: str) -> None:
    (tmp_path / "published.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    plain, report = convert(tmp_path / "published.jsonl", "margins.tsv", "margin")
    assert plain.read_text().splitlines()[0] == "400296\t1540783\t3518497\t4.028059"
    assert (report.source, report.rows) == ("hf-margin", 3)
    there, _ = convert(plain, name, "hf-margin")
    back, _ = convert(there, "back.tsv", "margin")
    assert back.read_text() == plain.read_text()
    again, _ = convert(there, "again.jsonl", "hf-margin")
    assert lines(again) == ROWS


def test_hard_negatives_of_several_systems_and_positives(tmp_path: Path) -> None:
    (tmp_path / "hard.jsonl").write_text(json.dumps(HARD) + "\n" + json.dumps(HARD | {"qid": 3, "neg": {}}) + "\n")
    out, _ = convert(tmp_path / "hard.jsonl", "out.tsv", "ids")
    negatives = {"2942565": 1.25, "17": -3.0, "18": 0.5}
    assert out.read_text().splitlines() == [
        f"{above}\t{below}\t1185869\t{positive}\t{negative}"
        for positive, above in (("0", 9.06), ("5", 8.5))
        for negative, below in negatives.items()
    ]
    again, _ = convert(out, "again.jsonl", "hard-negatives", system="all")
    (found,) = lines(again)
    assert found == HARD | {"neg": {"all": [{"pid": doc, "ce-score": score} for doc, score in negatives.items()]}}


def test_rows_are_gathered_wherever_they_stand(tmp_path: Path) -> None:
    negatives = [("q", "a", doc) for doc in "bcdefg"] + [("r", "a", doc) for doc in "bcd"] + [("q", "z", "b")]
    order = np.random.default_rng(0).permutation(len(negatives))
    scores = {doc: float(i) for i, doc in enumerate("abcdefgz")}
    rows = [(q, [(p, scores[p]), (n, scores[n])]) for q, p, n in (negatives[i] for i in order)]
    write_scores(tmp_path / "in", [*rows, rows[0]])
    out, report = convert(tmp_path / "in", "out", "nway", num_docs=4)
    found = lines(out)
    in_order = [[n for q, p, n in (negatives[i] for i in order) if (q, p) == key] for key in (("q", "a"), ("r", "a"))]
    expected = {
        ("q", *in_order[0][:3]),
        ("q", *in_order[0][3:]),
        ("r", *in_order[1]),
    }
    assert {(query, *(doc for doc, _ in docs[1:])) for query, *docs in found} == expected
    assert all(docs[0] == ["a", 0.0] and all(scores[doc] == score for doc, score in docs) for _, *docs in found)
    assert report.counts == {
        "negatives that repeat for their query and positive": 1,
        "negatives that don't fill a row": 1,
    }
    assert report.rows == 3


def test_contradictory_positives_are_counted(source: Path) -> None:
    source.write_text("3\t1\tq\ta\tb\n3.5\t2\tq\ta\tc\n")
    out, report = convert(source, "out", "nway", num_docs=3)
    assert lines(out) == [["q", ["a", 3.0], ["b", 1.0], ["c", 2.0]]]
    assert report.counts == {"positives with several scores, of which the first was taken": 1}


@pytest.mark.parametrize("to", ["ids", "margin", "hf-margin"])
def test_rows_of_many_docs_become_rows_of_two(tmp_path: Path, to: str) -> None:
    (tmp_path / "n").write_text('[1, ["a", 5], ["b", 4], ["c", 1]]\n[2, ["a", 1], ["x", 0], ["y", -1]]\n')
    out, report = convert(tmp_path / "n", "out.jsonl", to)
    assert report.rows == 4
    found = {
        "ids": ["5.0\t4.0\t1\ta\tb", "5.0\t1.0\t1\ta\tc", "1.0\t0.0\t2\ta\tx", "1.0\t-1.0\t2\ta\ty"],
        "margin": ["1\ta\tb\t1.0", "1\ta\tc\t4.0", "2\ta\tx\t1.0", "2\ta\ty\t2.0"],
    }
    if to == "hf-margin":
        assert [row["score"] for row in lines(out)] == [1, 4, 1, 2]
    else:
        assert out.read_text().splitlines() == found[to]


def test_texts(source: Path) -> None:
    docs = {"a": "the\tfirst", "b": "second\r\ndoc", "c": "third"}
    collection = collection_from_texts(docs, {"q1": "what is it", "7": "why"})
    out, report = convert(source, "t.tsv", "text", collection=collection)
    assert out.read_text().splitlines()[:2] == [
        "3.0\t1.0\twhat is it\tthe first\tsecond  doc",
        "3.0\t2.5\twhat is it\tthe first\tthird",
    ]
    assert report.counts == {"texts with tabs or line ends": 5}
    assert convert(out, "t.jsonl", "text")[0].read_text() == out.read_text()
    small = collection_from_texts({"a": "x", "b": "y z"}, {"q1": "what is it", "7": "why"})
    with pytest.raises(
        MissingIdsError, match=r'found 1 of 6 that are not there \(first: "c"\); pass --on-missing skip'
    ):
        convert(source, "u.tsv", "text", collection=small)
    out, report = convert(source, "u.tsv", "text", collection=small, on_missing="skip")
    assert len(out.read_text().splitlines()) == report.rows == 2
    assert report.counts == {"rows left out for ids that the collection lacks": 1}


def test_texts_of_a_folder(tmp_path: Path, conala: Path) -> None:
    out, _ = convert(_linked(conala / "teacher" / "scores.tsv.gz", tmp_path), "t.tsv", "text", collection=str(conala))
    first = out.read_text().splitlines()[0].split("\t")
    store = open_scores(conala / "teacher" / "scores.tsv.gz", cache_dir=tmp_path, progress=False)
    assert len(first) == 5
    assert float(first[0]) == store.gather(np.array([0])).scores[0, 0]


def _linked(path: Path, folder: Path) -> Path:
    link = folder / path.name
    link.symlink_to(path)
    return link


class TestOtherReaders:
    """What other packages make of the files."""

    @pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
    def test_datasets(self, source: Path, suffix: str) -> None:
        import datasets

        kind = "parquet" if suffix == "parquet" else "json"
        cache = str(source.parent / "cache")

        def load(path: Path) -> Any:
            return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)

        margins = load(convert(source, f"m.{suffix}", "hf-margin")[0])
        # As the published one's; the last column is what sentence-transformers takes for the label.
        assert margins.column_names == ["query_id", "positive_id", "negative_id", "score"]
        assert {name: value.dtype for name, value in margins.features.items()} == {
            "query_id": "string",
            "positive_id": "string",
            "negative_id": "string",
            "score": "float64",
        }
        assert margins["score"][:] == [2.0, 0.5, 4.0]
        pylate = load(convert(source, f"p.{suffix}", "pylate")[0])
        assert pylate.features["query_id"].dtype == "string"
        assert pylate.features["document_ids"].feature.dtype == "string"
        assert pylate.features["scores"].feature.dtype == ("float32" if kind == "parquet" else "float64")
        assert pylate[1] == {"query_id": "q1", "document_ids": ["a", "c"], "scores": [3.0, 2.5]}

    def test_a_data_set_written_by_datasets_is_read(self, source: Path) -> None:
        import datasets

        rows = {"query_id": ["q", "r"], "document_ids": [["a", "b"], ["c", "d"]], "scores": [[1.5, 1.0], [2.0, 3.0]]}
        datasets.Dataset.from_dict(rows).to_parquet(str(source.with_name("in.parquet")))
        assert (
            convert(source.with_name("in.parquet"), "o", "ids")[0].read_text()
            == "1.5\t1.0\tq\ta\tb\n2.0\t3.0\tr\tc\td\n"
        )

    def test_polars_and_pandas(self, source: Path) -> None:
        polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
        path, _ = convert(source, "m.parquet", "hf-margin")
        assert (
            polars.read_parquet(path)["score"].to_list()
            == pandas.read_parquet(path)["score"].tolist()
            == [2.0, 0.5, 4.0]
        )

    def test_the_loop_of_beirs_training_examples(self, source: Path) -> None:
        path, _ = convert(source, "h.jsonl.gz", "hard-negatives")
        queries = {}
        with gzip.open(path, "rt", encoding="utf8") as rows:
            for row in map(json.loads, rows):
                least = min(item["ce-score"] for item in row["pos"])
                found = [
                    item["pid"] for items in row["neg"].values() for item in items if item["ce-score"] <= least - 1
                ]
                queries[row["qid"]] = ([item["pid"] for item in row["pos"]], found)
        assert queries == {"q1": (["a"], ["b"]), "7": (["a"], ["b"])}


BAD: dict[str, tuple[Any, str]] = {
    "no scores": (
        HARD | {"pos": [7], "neg": {"bm25": [8]}},
        r"x:1: expected qid, pos, neg of the format hard-negatives, found 7 as a scored doc; docs without scores can be",
    ),
    "a null score": (
        ROWS[0] | {"score": None},
        r"x:1: expected query_id, .* of the format hf-margin, found None as a score; correct",
    ),
    "a NaN": (ROWS[0] | {"score": float("nan")}, r"found nan as a score"),
    "an empty id": (ROWS[0] | {"query_id": ""}, r"found '' as an id"),
    "a float id": (ROWS[0] | {"query_id": 1.5}, r"found 1\.5 as an id"),
    "lists of two lengths": (
        {"query_id": 1, "document_ids": ["a", "b"], "scores": [1.0]},
        r"expected query_id, document_ids, scores of the format pylate, found 2 documents and 1 scores",
    ),
    "no list": ({"query_id": 1, "document_ids": 3, "scores": [1.0]}, r"found 3 as a list"),
    "other columns": (
        {"query": "a", "answer": "b"},
        r"x: expected the columns query_id, positive_id, .*, found answer, query; rename",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_messages_of_rows(tmp_path: Path, what: str) -> None:
    record, message = BAD[what]
    (tmp_path / "x").write_text(json.dumps(record))
    with pytest.raises(BadDataError, match=message):
        convert(tmp_path / "x", "out.jsonl", "hf-margin" if "score" in record else "pylate")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_later_row_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps(ROWS[0]) + "\n\n{}\n")
    with pytest.raises(BadDataError, match=r"x:3: expected .*, found 'query_id'; correct the row"):
        convert(tmp_path / "x", "out", "margin")
    (tmp_path / "x").write_text(json.dumps(ROWS[0]) + "\nnull\n")
    with pytest.raises(BadDataError, match=r"x:2: expected a JSON object a line, found None"):
        convert(tmp_path / "x", "out", "margin")


def test_lists_written_out_in_strings(tmp_path: Path) -> None:
    record = {"query_id": 7, "document_ids": "['a', 5]", "scores": "[1.5, -2]"}
    (tmp_path / "x").write_text(json.dumps(record))
    assert convert(tmp_path / "x", "out", "ids")[0].read_text() == "1.5\t-2.0\t7\ta\t5\n"


@pytest.mark.parametrize(
    ("content", "to", "name", "options", "message"),
    [
        ("q\ta\tb\t1\n", "ids", "o", {}, "expected margin or hf-margin as target, found ids: a margin doesn't tell"),
        ("q\ta\tb\t1\n", "pylate", "o.jsonl", {}, "found pylate: a margin doesn't tell the two scores"),
        ("1\t2\ta b\tc\td\n", "ids", "o", {}, "expected text as target, found ids: files of texts name no ids"),
        (IDS, "text", "o", {}, "expected a collection that holds the texts, found none; pass --collection"),
        (IDS, "ids", "o", {"num_docs": 3}, "expected num_docs of 2 or more, for nway or pylate, found 3 for ids"),
        (IDS, "nway", "o", {"num_docs": 1}, "expected num_docs of 2 or more, for nway or pylate, found 1"),
        (
            IDS,
            "pylate",
            "o.tsv",
            {},
            r"expected an output that ends in \.parquet, \.jsonl or \.jsonl\.gz, found o\.tsv",
        ),
        (IDS, "hard-negatives", "o.parquet", {}, r"ends in \.jsonl or \.jsonl\.gz for hard-negatives, found \.parquet"),
        (
            IDS,
            "tsv",
            "o",
            {},
            "expected a target of ids, text, margin, nway, hf-margin, pylate, hard-negatives, found 'tsv'",
        ),
    ],
)
def test_messages_of_what_cannot_be(
    source: Path, content: str, to: str, name: str, options: dict[str, Any], message: str
) -> None:
    source.write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(source, name, to, **options)
    assert [path.name for path in source.parent.iterdir()] == ["scores.tsv"]


def test_standard_input_is_not_grouped() -> None:
    with pytest.raises(ValueError, match=r"expected files, to group their rows, found standard input \(-\)"):
        convert_scores("-", "out", "nway", format="ids", num_docs=3)


@pytest.mark.parametrize("options", [{}, {"num_docs": 9}])
def test_no_row_is_left(source: Path, options: dict[str, Any]) -> None:
    if not options:
        source.write_text("bad\n")
    with pytest.raises(BadDataError, match="expected at least one"):
        convert(source, "out", "nway", format="ids", on_bad_row="skip", **options)
    assert [path.name for path in source.parent.iterdir()] == ["scores.tsv"]


@pytest.mark.parametrize("group", [{}, {"num_docs": 2}])
def test_bad_rows_are_counted(source: Path, group: dict[str, Any]) -> None:
    with source.open("a") as file:
        file.write("1\t2\n")
    _, report = convert(source, "out", "nway", on_bad_row="skip", **group)
    assert (report.rows, report.counts) == (3, {"bad rows left out": 1})


def test_parquet_needs_pyarrow(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet, _ = convert(source, "x.parquet", "pylate")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    calls: list[Callable[[], Any]] = [
        lambda: convert(source, "y.parquet", "pylate"),
        lambda: convert(parquet, "y", "ids"),
    ]
    for call in calls:
        with pytest.raises(MissingDependencyError, match=r"pyarrow, to .* pip install 'rankdistill\[parquet\]'"):
            call()


def test_the_command(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("n.jsonl")
    words = ["scores", "convert", str(source), "-o", str(out), "--to", "nway", "--num-docs", "3"]
    app(words, result_action="return_value")
    assert lines(out) == [["q1", ["a", 3.0], ["b", 1.0], ["c", 2.5]]]
    assert capsys.readouterr().out == f"negatives that don't fill a row: 1\n{out}: 1 rows (nway, from ids)\n"
