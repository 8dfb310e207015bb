"""Collections: every layout gives the same texts, and what's wrong with a file is said with its place."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rankdistill.errors import BadDataError, MissingDependencyError, MissingIdsError
from rankdistill.formats import texts as texts_module
from rankdistill.formats.collection import (
    Collection,
    collection_from_datasets,
    collection_from_texts,
    open_collection,
)

DOCS = [
    {"_id": "d1", "title": "Oxygen", "text": "A gas.\nIt burns nothing."},
    {"_id": "d2", "title": "", "text": "  tabs\tand ünïcode 🌍 "},
    {"_id": "d3", "text": "no title"},
]
QUERIES = [{"_id": "q1", "text": "gas?"}, {"_id": "q2", "text": "globe"}]
QRELS = {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}
TEXTS = {"d1": "Oxygen A gas.\nIt burns nothing.", "d2": "tabs\tand ünïcode 🌍", "d3": "no title"}


def write_beir(folder: Path, *, packed: bool = False, docs: list[Any] | None = None) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", DOCS if docs is None else docs), ("queries", QUERIES)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if packed:
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        else:
            # No end of line at the end of the file, and a blank line inside.
            (folder / f"{name}.jsonl").write_text(lines.replace("\n", "\n\n", 1).rstrip("\n"), encoding="utf-8")
    qrels = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t0\nq2\td2\t1\n"
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def check(collection: Collection, texts: dict[str, str] = TEXTS) -> None:
    assert list(collection.doc_ids) == list(texts) == ["d1", "d2", "d3"]
    assert collection.num_docs == 3
    assert dict(collection.docs()) == texts
    assert list(collection.docs(["d3", "d1", "d3"])) == [(id_, texts[id_]) for id_ in ("d3", "d1", "d3")]
    assert collection.doc_texts(["d2", "d1"]) == [texts["d2"], texts["d1"]]
    assert collection.doc_rows(["d3", "nowhere", "d1"]).tolist() == [2, -1, 0]
    assert dict(collection.queries()) == {"q1": "gas?", "q2": "globe"}
    assert collection.query_texts(["q2"]) == ["globe"]
    assert collection.query_rows(["q2", "q1"]).tolist() == [1, 0]
    assert "d2" in collection.doc_ids
    assert "d4" not in collection.doc_ids
    assert collection.doc_ids[-1] == "d3"
    assert list(collection.doc_ids[1:]) == ["d2", "d3"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_beir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, big: bool) -> None:
    if big:
        # What happens to files too big for memory: an index, and for gzip the extracted lines, in the cache.
        monkeypatch.setattr(texts_module, "_IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(texts_module, "_IN_MEMORY_GZIP_BYTES", 0)
    folder = write_beir(tmp_path / "beir", packed=packed)
    first = open_collection(folder, cache_dir=tmp_path / "cache")
    check(first)
    assert first.splits == ("test",)
    assert first.qrels() == first.qrels("test") == QRELS
    again = open_collection(str(folder), cache_dir=tmp_path / "cache")
    check(again)
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "cache").exists() == big


def test_a_kept_index_is_used_and_a_broken_one_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "_IN_MEMORY_BYTES", 0)
    folder, cache = write_beir(tmp_path / "beir"), tmp_path / "cache"
    fingerprint = open_collection(folder, cache_dir=cache).fingerprint
    with monkeypatch.context() as patched:
        patched.setattr(texts_module, "_index", lambda *_: pytest.fail("the index was made again"))
        assert open_collection(folder, cache_dir=cache).fingerprint == fingerprint
    for index in cache.glob("*/index.npz"):
        index.write_bytes(index.read_bytes()[:100])
    check(open_collection(folder, cache_dir=cache))


def test_plain_and_gzip_have_one_fingerprint_and_another_text_another(tmp_path: Path) -> None:
    def write(name: str, text: str, packed: bool) -> str:
        folder = tmp_path / name
        folder.mkdir()
        line = (json.dumps({"_id": "d1", "text": text}) + "\n").encode()
        (folder / ("corpus.jsonl.gz" if packed else "corpus.jsonl")).write_bytes(
            gzip.compress(line) if packed else line
        )
        return open_collection(folder).fingerprint

    assert write("a", "some", False) == write("b", "some", True) != write("c", "same", False)


def test_msmarco(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("d1\tgas\nd2\t globe \nd3\tnothing\n")
    (tmp_path / "queries.dev.tsv").write_text("q1\tgas?\nq2\tglobe\n")
    (tmp_path / "queries.dev.small.tsv").write_text("q1\tgas?\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("q1\t0\td1\t1\n")
    for spec in (tmp_path, tmp_path / "collection.tsv"):
        collection = open_collection(spec)
        check(collection, {"d1": "gas", "d2": "globe", "d3": "nothing"})
        assert collection.qrels("dev.small") == {"q1": {"d1": 1}}
    assert list(open_collection(tmp_path, split="dev.small").query_ids) == ["q1"]
    (tmp_path / "queries.train.tsv").write_text("q1\tother words\n")
    with pytest.raises(BadDataError, match='expected the text that "q1" has in another split'):
        open_collection(tmp_path)


def test_texts_in_memory() -> None:
    collection = collection_from_texts(TEXTS, {"q1": "gas?", "q2": "globe"}, QRELS)
    check(collection)
    assert collection.qrels() == QRELS
    assert collection.fingerprint != collection_from_texts(TEXTS | {"d1": "x"}, {"q1": "gas?"}).fingerprint


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"query-id": query, "corpus-id": doc, "score": s} for query, docs in QRELS.items() for doc, s in docs.items()
    ]
    parts = {
        "corpus": datasets.Dataset.from_list([{"title": "", **doc} for doc in DOCS]),
        "queries": datasets.Dataset.from_list(QUERIES).rename_columns({"_id": "query_id", "text": "query"}),
        "qrels": datasets.Dataset.from_list(rows),
    }
    check(collection_from_datasets(parts["corpus"], parts["queries"]))
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "whole")
    for name, part in parts.items():
        part.save_to_disk(tmp_path / "parts" / name)
    for folder in ("whole", "parts"):
        collection = open_collection(tmp_path / folder)
        check(collection)
        assert collection.qrels() == QRELS
    with pytest.raises(BadDataError, match=r"expected a column of ids .*, found the columns text"):
        collection_from_datasets(parts["corpus"].select_columns(["text"]))


def test_hugging_face_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"query-id": query, "corpus-id": doc, "score": s} for query, docs in QRELS.items() for doc, s in docs.items()
    ]
    # As mteb publishes BEIR: one config each, qrels in "default" by split.
    hub = {
        "corpus": {"corpus": datasets.Dataset.from_list([{"title": "", **doc} for doc in DOCS])},
        "queries": {"queries": datasets.Dataset.from_list(QUERIES)},
        "default": {"test": datasets.Dataset.from_list(rows), "dev": datasets.Dataset.from_list(rows[:1])},
    }
    monkeypatch.setattr(
        datasets, "get_dataset_config_names", lambda name: {"mteb/tiny": list(hub), "x": ["default"]}[name]
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: {"mteb/tiny": hub}[name][config])
    collection = open_collection("hf:mteb/tiny", split="test")
    check(collection)
    assert collection.qrels() == QRELS
    assert collection.qrels("dev") == {"q1": {"d1": 2}}
    with pytest.raises(BadDataError, match=r"hf:x: expected a part called corpus, .*, found default"):
        open_collection("hf:x")


@pytest.fixture
def irds_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`beir/nfcorpus` and `beir/scifact` as ir_datasets caches them, with our own few lines in them."""
    ir_datasets = pytest.importorskip("ir_datasets")
    from ir_datasets.datasets import beir
    from ir_datasets.indices import PickleLz4FullStore

    home = tmp_path / "irds"
    folder = home / "beir" / "scifact"
    folder.mkdir(parents=True)
    (folder / "irds_version.txt").write_text("v2")
    monkeypatch.setattr(ir_datasets.util, "home_path", lambda: home)
    docs = [beir.BeirTitleDoc(doc["_id"], doc["text"], doc.get("title", "")) for doc in DOCS]
    PickleLz4FullStore(
        path=str(folder / "docs.pklz4"),
        init_iter_fn=lambda: iter(docs),
        data_cls=beir.BeirTitleDoc,
        lookup_field="doc_id",
        index_fields=["doc_id"],
    ).build()
    queries, qrels = folder / "queries.json", folder / "test.qrels"
    queries.write_text("".join(json.dumps(query) + "\n" for query in QUERIES))
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t0\nq2\td2\t1\n")
    # The registry fixed its paths when it was imported.
    dataset = ir_datasets.load("beir/scifact/test")
    monkeypatch.setattr(beir.subsets["scifact/test"].queries_handler()._queries_handler._dlc, "_path", queries)
    monkeypatch.setattr(dataset.qrels_handler()._qrels_dlc, "_path", qrels)
    return home


def test_ir_datasets(irds_home: Path) -> None:
    for spec in ("beir/scifact/test", "ir_datasets:beir/scifact/test"):
        collection = open_collection(spec)
        check(collection)
        assert collection.splits == ("test",)
        assert collection.qrels() == QRELS
    assert list(collection.side("docs").pairs(2)) == [("d3", "no title")]


def test_ir_datasets_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ir_datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install 'rankdistill"):
        open_collection("beir/scifact/test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n', r'corpus\.jsonl:2: .*found "d1" a second time'),
        ('{"_id": "d1", "text": "a"}\n\n{"_id": "d2"\n', r"corpus\.jsonl:3: expected a JSON object with .*_id"),
        ('{"_id": "d1"}\n', r"corpus\.jsonl:1: expected a JSON object"),
        ('{"_id": "", "text": "a"}\n', r"corpus\.jsonl:1: expected a JSON object"),
        ("[1]\n", r"corpus\.jsonl:1: expected a JSON object"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(content)
    with pytest.raises(BadDataError, match=message) as caught:
        open_collection(tmp_path)
    assert caught.value.path == str(tmp_path / "corpus.jsonl")


def test_bad_tsv_and_archive(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_bytes(b"d1\tgas\nd2\n")
    with pytest.raises(
        BadDataError, match=r"collection\.tsv:2: expected 2 tab-separated columns, id and text, found 1"
    ):
        open_collection(tmp_path)
    (tmp_path / "collection.tsv").write_bytes(b"d1\tg\xffas\n")
    with pytest.raises(BadDataError, match=r"collection\.tsv:1: .*utf-8"):
        open_collection(tmp_path)
    (tmp_path / "collection.tsv").unlink()
    (tmp_path / "collection.tsv.gz").write_bytes(gzip.compress(os.urandom(2000))[:-200])
    with pytest.raises(BadDataError, match=r"collection\.tsv\.gz: expected a whole gzip archive"):
        open_collection(tmp_path)


def test_unknown_specs(tmp_path: Path, irds_home: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.bin").touch()
    for spec, found in (("empty", "a folder with nothing"), ("x.bin", "a file of another kind")):
        with pytest.raises(BadDataError, match=rf"expected a collection: .*corpus\.jsonl.*found {found}"):
            open_collection(tmp_path / spec)
    with pytest.raises(BadDataError, match="neither a path nor an id that ir_datasets knows"):
        open_collection("beir/no-such-thing")


def test_splits_are_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    shutil.copy(folder / "qrels" / "test.tsv", folder / "qrels" / "dev.tsv")
    with pytest.raises(ValueError, match=r"expected a split with qrels \(dev, test\), found None"):
        open_collection(folder).qrels()
    assert open_collection(folder, split="dev").qrels() == QRELS
    with pytest.raises(BadDataError, match=r"expected a split of .* \(dev, test\), found train"):
        open_collection(folder, split="train")


def test_missing_ids_are_counted_and_named() -> None:
    collection = collection_from_texts(TEXTS)
    with pytest.raises(
        MissingIdsError, match=r'expected all 4 documents in texts, found 2 that .*\(first: "x"\)'
    ) as caught:
        collection.doc_texts(["d1", "x", "d2", "y"])
    assert caught.value.missing == ("x", "y")
    assert collection.doc_texts(["d1", "x"], on_missing="skip") == [TEXTS["d1"]]
    with pytest.raises(MissingIdsError, match=r'1 that are not there .*"q9"'):
        collection.query_texts(["q9"])


def test_the_shipped_collection(conala: Path, conala_texts: dict[str, dict[str, str]]) -> None:
    collection = open_collection(conala)
    expected = {id_: text.strip() for id_, text in conala_texts["docs"].items()}
    assert dict(collection.docs()) == expected
    assert set(collection.splits) == {"train", "test"}
    assert len(collection.qrels("test")) == 500
