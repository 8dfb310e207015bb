"""The ten lines of the README for those who want retrieval as a dependency."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_ten_lines(tiny_sentence_transformer_dir: Path, tiny_cross_encoder_dir: Path) -> None:
    path, teacher_path = str(tiny_sentence_transformer_dir), str(tiny_cross_encoder_dir)
    docs = {"d1": "sorted(x, key=len)", "d2": "open(path).read()", "d3": "sorted(x, key=len)"}
    queries = {"q1": "sorted(x, key=len)", "q2": "open(path).read()"}
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}

    import rankdistill

    model = rankdistill.load(path, device="cpu")
    index = rankdistill.build_index(model, docs)
    run = rankdistill.search(model, index, queries, k=2)
    collection = rankdistill.collection_from_texts(docs, queries)
    reranked = rankdistill.rerank(rankdistill.load(teacher_path, device="cpu"), collection, run)
    result = rankdistill.evaluate(qrels, run, ["nDCG@10", "R@2"])

    assert set(run) == {"q1", "q2"}
    assert all(len(found) == 2 for found in run.values())
    # d1 and d3 are the same text, so they tie for each query and the smaller id comes first.
    for found in run.values():
        if {"d1", "d3"} <= set(found):
            assert list(found) == ["d1", "d3"]
    assert {query_id: set(found) for query_id, found in reranked.items()} == {q: set(found) for q, found in run.items()}
    assert result.num_queries == 2
    assert result.mean["R@2"] == pytest.approx(sum(result.per_query["R@2"].values()) / 2)


def test_search_after_saving_and_loading(tiny_sentence_transformer_dir: Path, tmp_path: Path) -> None:
    import rankdistill

    model = rankdistill.load(tiny_sentence_transformer_dir, device="cpu")
    index = rankdistill.build_index(model, {"a": "sort a list", "b": "read a file"}, progress=False)
    index.save(tmp_path)
    again = rankdistill.FlatIndex.load(tmp_path)
    queries = {"q": "sort"}
    assert rankdistill.search(model, again, queries, progress=False) == rankdistill.search(
        model, index, queries, progress=False
    )
