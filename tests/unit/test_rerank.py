from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import MissingIdsError
from rankdistill.formats.collection import Collection
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.records import Run
from rankdistill.retrieval import rerank as module
from rankdistill.retrieval.rerank import rerank, score_pairs


@pytest.fixture(scope="module", params=["dot", "cross-encoder"])
def model(
    request: pytest.FixtureRequest, tiny_sentence_transformer_dir: Path, tiny_cross_encoder_dir: Path
) -> DotModel | CrossEncoderModel:
    if request.param == "dot":
        return DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    return CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu")


@pytest.fixture(scope="module")
def run(small_collection: Collection) -> Run:
    doc_ids = list(small_collection.doc_ids)
    return {
        query_id: {doc_ids[(7 * i + j) % 200]: -float(j) for j in range(12)}
        for i, query_id in enumerate(list(small_collection.query_ids)[:6])
    }


def test_scores_do_not_depend_on_their_company(
    model: DotModel | CrossEncoderModel, small_collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [text for _, text in small_collection.queries()][:20]
    docs = [text for _, text in small_collection.docs()][:20]
    alone = [score_pairs(model, [q], [d], progress=False)[0] for q, d in zip(queries, docs, strict=True)]
    monkeypatch.setattr(module, "_PAIR_CHUNK", 7)
    for batch_tokens in (50, 100_000):
        together = score_pairs(model, queries, docs, batch_tokens=batch_tokens, progress=False)
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=2e-5)
    assert together.dtype == np.float32


def test_each_pair_or_text_goes_through_the_model_once(
    model: DotModel | CrossEncoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    name = "vectors" if isinstance(model, DotModel) else "scores"
    run = getattr(model, name)
    monkeypatch.setattr(model, name, lambda **batch: rows.append(len(batch["input_ids"])) or run(**batch))
    scores = score_pairs(model, ["a", "b", "a", "a"], ["x", "x", "x", "y"], progress=False)
    # A dot model encodes a, b and x, y; a cross-encoder reads ax, bx, ay.
    assert sum(rows) == (4 if isinstance(model, DotModel) else 3)
    assert scores[0] == scores[2]
    assert len({scores[0], scores[1], scores[3]}) == 3


def test_no_pairs_and_odd_pairs(model: DotModel | CrossEncoderModel) -> None:
    assert score_pairs(model, [], [], progress=False).shape == (0,)
    with pytest.raises(ValueError, match="as many queries as documents, found 1 and 2"):
        score_pairs(model, ["a"], ["b", "c"], progress=False)


def test_rerank_orders_by_the_models_scores(
    model: DotModel | CrossEncoderModel, small_collection: Collection, run: Run
) -> None:
    result = rerank(model, small_collection, run, progress=False)
    assert {query_id: set(docs) for query_id, docs in result.items()} == {q: set(docs) for q, docs in run.items()}
    for query_id, found in result.items():
        queries = small_collection.query_texts([query_id]) * len(found)
        scores = score_pairs(model, queries, small_collection.doc_texts(list(found)), progress=False)
        np.testing.assert_allclose(list(found.values()), scores, rtol=1e-5, atol=2e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_depth_cuts_in_the_runs_order(
    model: DotModel | CrossEncoderModel, small_collection: Collection, run: Run
) -> None:
    result = rerank(model, small_collection, run, depth=3, progress=False)
    for query_id, found in result.items():
        assert set(found) == set(list(run[query_id])[:3])


def test_ids_that_the_collection_lacks(model: DotModel | CrossEncoderModel, small_collection: Collection) -> None:
    query_id = next(iter(small_collection.query_ids))
    with pytest.raises(MissingIdsError) as caught:
        rerank(model, small_collection, {query_id: {"nowhere": 1.0}}, progress=False)
    assert caught.value.missing == ("nowhere",)
    with pytest.raises(MissingIdsError):
        rerank(model, small_collection, {"nobody": {}}, progress=False)
