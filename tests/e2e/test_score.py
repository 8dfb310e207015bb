"""Teacher scoring: each pair once, in the published form, and the same file after an interruption."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import BadDataError, BadStoreError, MissingIdsError, NothingDoneError
from rankdistill.formats.collection import open_collection
from rankdistill.formats.trec import write_run
from rankdistill.formats.triples import Triple, read_triples, write_triples
from rankdistill.models.loading import load_model
from rankdistill.options.scoring import ScoreOptions, TriplesOptions
from rankdistill.retrieval import score as scoring
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.mine import draw_triples, make_triples
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.score import score_file


@pytest.fixture(scope="session")
def triples(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """60 triples of conala."""
    path = tmp_path_factory.mktemp("triples") / "triples.tsv"
    make_triples(TriplesOptions(collection=str(conala), output=path, num_negatives=2, max_triples=60, depth=10))
    return path


def options(teacher: Path | str, conala: Path, out: Path, **more: object) -> ScoreOptions:
    return ScoreOptions(teacher=str(teacher), collection=str(conala), output=out, device="cpu", **more)  # type: ignore[arg-type]


def test_triples_have_a_relevant_doc_and_another(triples: Path, conala: Path) -> None:
    qrels = open_collection(conala).qrels("train")
    found = read_triples(triples)
    assert len(found) == len(set(found)) == 60
    for query_id, positive, negative in found:
        assert qrels[query_id].get(positive, 0) > 0
        assert negative not in qrels[query_id]


def test_some_negatives_are_of_the_whole_collection(tmp_path: Path, conala: Path) -> None:
    made = TriplesOptions(collection=str(conala), output=tmp_path / "hard.tsv", num_negatives=2, depth=10)
    mixed = replace(made, output=tmp_path / "mixed.tsv", num_random=3)
    hard, found = make_triples(made), make_triples(mixed)
    qrels, run = open_collection(conala).qrels("train"), bm25_search(open_collection(conala), None, 10)
    assert [triple for triple in found if triple in set(hard)] == hard
    for query_id, rows in itertools.groupby(found, lambda triple: triple.query_id):
        negatives = [triple.negative_id for triple in rows]
        own = [triple.negative_id for triple in hard if triple.query_id == query_id]
        assert negatives[: len(own)] == own
        assert len(negatives) == len(set(negatives)) == len(own) + 3
        assert not set(negatives) & set(qrels[query_id])
    # Nearly all docs are none of the first ten.
    drawn = [triple for triple in found if triple not in set(hard)]
    assert sum(triple.negative_id in run.get(triple.query_id, {}) for triple in drawn) < 0.1 * len(drawn)


def test_random_candidates_are_the_same_for_all_teachers(
    tmp_path: Path, conala: Path, tiny_sentence_transformer_dir: Path
) -> None:
    collection = open_collection(conala)
    run = bm25_search(collection, collection.query_ids[:20], 10)
    write_run(tmp_path / "bm25.run", run)
    files = []
    for teacher in ("bm25", tiny_sentence_transformer_dir):
        files.append(tmp_path / f"{Path(teacher).name}.jsonl")
        more = {"candidates": tmp_path / "bm25.run", "split": "train", "depth": 4, "num_random": 4}
        assert score_file(options(teacher, conala, files[-1], **more))["rows"] == 20
    first, second = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    qrels = collection.qrels("train")
    for own, other in zip(first, second, strict=True):
        ids = [doc_id for doc_id, _ in own[1:]]
        assert own[0] == other[0]
        assert set(ids) == {doc_id for doc_id, _ in other[1:]}
        assert len(set(ids)) == 8
        assert sum(doc_id in qrels[own[0]] for doc_id in ids) == 1
        assert sum(doc_id in run[own[0]] for doc_id in ids) <= 5
    with pytest.raises(ValueError, match="num-random is for --candidates"):
        score_file(options("bm25", conala, files[0], triples=tmp_path / "triples.tsv", num_random=2))


@pytest.mark.parametrize("kind", ["tiny_cross_encoder_dir", "tiny_sentence_transformer_dir", "bm25"])
def test_the_file_has_each_triple_with_its_scores(
    tmp_path: Path, triples: Path, conala: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    teacher = kind if kind == "bm25" else request.getfixturevalue(kind)
    out = tmp_path / "scores.tsv"
    counts = score_file(options(teacher, conala, out, triples=triples))
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert [tuple(row[2:]) for row in rows] == read_triples(triples)
    assert counts["rows"] == 60
    assert counts["pairs"] == len({(row[2], row[i]) for row in rows for i in (3, 4)})
    assert not Path(f"{out}.partial").exists()
    if kind == "bm25":
        assert all(float(row[0]) >= 0 for row in rows)
        return
    collection = open_collection(conala)
    queries = collection.query_texts([row[2] for row in rows])
    expected = score_pairs(
        load_model(teacher, device="cpu"), queries, collection.doc_texts([row[3] for row in rows]), progress=False
    )
    np.testing.assert_allclose([float(row[0]) for row in rows], expected, atol=1e-5)


@pytest.mark.parametrize("num_before", [1, 3])
@pytest.mark.parametrize("torn_bytes", [0, 10])
def test_interrupted_and_started_again_the_file_is_the_same(
    tmp_path: Path,
    triples: Path,
    conala: Path,
    tiny_cross_encoder_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_before: int,
    torn_bytes: int,
) -> None:
    whole, again = tmp_path / "whole.tsv", tmp_path / "again.tsv"
    score_file(options(tiny_cross_encoder_dir, conala, whole, triples=triples, chunk_pairs=16))
    calls = 0

    def stops(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls > num_before:
            raise KeyboardInterrupt
        return score_pairs(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "score_pairs", stops)
    with pytest.raises(KeyboardInterrupt):
        score_file(options(tiny_cross_encoder_dir, conala, again, triples=triples, chunk_pairs=16))
    assert not again.exists()
    with (tmp_path / "again.tsv.partial" / "scores.f32").open("ab") as file:
        file.write(b"\x7f" * torn_bytes)  # what a kill in the midst of a write leaves
    done = calls = 0

    def counts(*arguments: object, **more: object) -> object:
        nonlocal done
        done += 1
        return score_pairs(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "score_pairs", counts)
    found = score_file(options(tiny_cross_encoder_dir, conala, again, triples=triples, chunk_pairs=16))
    assert again.read_bytes() == whole.read_bytes()
    assert done == -(-found["pairs"] // 16) - num_before


def test_what_another_job_left_is_not_taken(
    tmp_path: Path, triples: Path, conala: Path, tiny_cross_encoder_dir: Path
) -> None:
    out = tmp_path / "scores.tsv"
    partial = Path(f"{out}.partial")
    partial.mkdir()
    (partial / "job.json").write_text(json.dumps({"teacher": "another"}))
    with pytest.raises(BadStoreError, match="expected the same job as was interrupted, found another teacher"):
        score_file(options(tiny_cross_encoder_dir, conala, out, triples=triples))


def test_candidates_give_rows_of_many_docs(tmp_path: Path, conala: Path, tiny_cross_encoder_dir: Path) -> None:
    collection = open_collection(conala)
    qrels = collection.qrels("train")
    query_ids = list(qrels)[:12]
    run = bm25_search(collection, query_ids, 8, progress=False)
    run[query_ids[0]] = dict(list(run[query_ids[0]].items())[:2])
    write_run(tmp_path / "bm25.run", run)
    out = tmp_path / "nway.jsonl"
    counts = score_file(
        options(tiny_cross_encoder_dir, conala, out, candidates=tmp_path / "bm25.run", split="train", depth=6)
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert counts["queries_left_out"] >= 1
    assert len(rows) == 12 - counts["queries_left_out"]
    for query_id, *docs in rows:
        assert len(docs) == len({doc_id for doc_id, _ in docs}) == 6
        assert qrels[query_id].get(docs[0][0], 0) > 0
    # Without labels the best-scored candidate leads.
    score_file(options(tiny_cross_encoder_dir, conala, out, candidates=tmp_path / "bm25.run", depth=6))
    for _, *docs in map(json.loads, out.read_text().splitlines()):
        scores = [score for _, score in docs]
        assert scores == sorted(scores, reverse=True)


def test_unknown_ids_are_named(tmp_path: Path, conala: Path, tiny_cross_encoder_dir: Path) -> None:
    write_triples(tmp_path / "triples.tsv", [Triple("train0", "s1", "nowhere")])
    with pytest.raises(MissingIdsError, match="nowhere"):
        score_file(options(tiny_cross_encoder_dir, conala, tmp_path / "o.tsv", triples=tmp_path / "triples.tsv"))
    with pytest.raises(ValueError, match="expected one of --triples and --candidates"):
        score_file(options(tiny_cross_encoder_dir, conala, tmp_path / "o.tsv"))


def test_other_relevant_docs_are_no_negatives_of_a_row(tmp_path: Path) -> None:
    docs = {f"d{i}": f"word{i} text" for i in range(9)}
    (tmp_path / "c" / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": doc_id, "text": text}) for doc_id, text in docs.items()]
    (tmp_path / "c" / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "c" / "queries.jsonl").write_text('{"_id": "q", "text": "text"}\n{"_id": "r", "text": "word1"}\n')
    qrels = "query-id\tcorpus-id\tscore\nq\td1\t0\nq\td2\t1\nq\td4\t2\nq\td6\t1\n"
    (tmp_path / "c" / "qrels" / "train.tsv").write_text(qrels)
    run = {query: {f"d{i}": 9.0 - i for i in range(9)} for query in ("q", "r")}
    write_run(tmp_path / "run", run)
    more = {"candidates": tmp_path / "run", "split": "train", "depth": 5}
    score_file(options("bm25", tmp_path / "c", tmp_path / "out", **more))
    rows = {row[0]: [doc_id for doc_id, _ in row[1:]] for row in map(json.loads, (tmp_path / "out").open())}
    assert rows["q"] == ["d2", "d0", "d1", "d3", "d5"]  # not d4 and d6; d1 is judged not to be relevant
    assert sorted(rows["r"]) == ["d0", "d1", "d2", "d3", "d4"]  # no judgements
    assert (
        score_file(options("bm25", tmp_path / "c", tmp_path / "out", **(more | {"depth": 8})))["queries_left_out"] == 1
    )


def test_triples_of_queries_that_the_collection_lacks(tmp_path: Path) -> None:
    (tmp_path / "c" / "qrels").mkdir(parents=True)
    (tmp_path / "c" / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "d{i}", "text": "word{i} text"}}\n' for i in range(4))
    )
    (tmp_path / "c" / "queries.jsonl").write_text('{"_id": "q", "text": "text"}\n')
    (tmp_path / "c" / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\ngone\td2\t1\n")
    collection = open_collection(tmp_path / "c")
    how = {"num_negatives": 2, "depth": 4, "num_random": 0, "seed": 1}
    with pytest.raises(MissingIdsError):
        draw_triples(collection, "train", "bm25", **how)
    triples = draw_triples(collection, "train", "bm25", on_missing="skip", **how)
    assert [triple[:2] for triple in triples] == [("q", "d1")] * 2
    with pytest.raises(
        NothingDoneError, match=r"expected a triple of the split train .* found none for 1 relevant documents"
    ):
        draw_triples(collection, "train", "bm25", on_missing="skip", **(how | {"depth": 1, "num_negatives": 0}))


def test_a_negative_is_another_doc_than_the_positive(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text("q\ta\tb\nq\ta\ta\n")
    with pytest.raises(BadDataError, match=r"triples.tsv:2: expected a negative that isn't the positive, found 'a'"):
        read_triples(tmp_path / "triples.tsv")
