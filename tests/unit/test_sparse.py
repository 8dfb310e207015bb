"""Sparse rows of terms: in memory, in folders, in an inverted index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.splade import SpladeModel
from rankdistill.records import ranked
from rankdistill.retrieval import sparse
from rankdistill.retrieval.index import build_index, index_of, load_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search
from rankdistill.retrieval.sparse import SparseIndex, encode_collection_sparse, encode_sparse, load_sparse
from rankdistill.retrieval.token_index import TokenIndex


@pytest.fixture(scope="module")
def model(tiny_mlm_dir: Path) -> SpladeModel:
    return SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu", query_max_length=12)


def test_rows_are_in_input_order_whatever_the_batches(model: SpladeModel, small_collection: Collection) -> None:
    texts = [*(text for _, text in list(small_collection.docs())[:30]), ""]
    alone = np.concatenate([encode_sparse(model, [text], kind="document", progress=False).toarray() for text in texts])
    for batch_tokens in (1, 100, 100_000):
        together = encode_sparse(model, texts, kind="document", batch_tokens=batch_tokens, progress=False)
        np.testing.assert_allclose(together.toarray(), alone, atol=1e-4)
    pruned = encode_sparse(model, texts, kind="document", min_weight=1.0, progress=False)
    np.testing.assert_allclose(pruned.toarray(), np.where(alone > 1, alone, 0), atol=1e-4)
    assert 0 < pruned.nnz < together.nnz
    assert encode_sparse(model, [], kind="query", progress=False).shape == (0, model.dim)


@pytest.mark.parametrize(("store_dtype", "tolerance"), [("float32", 1e-4), ("float16", 1e-2)])
def test_folders_hold_what_memory_holds_and_go_on(
    model: SpladeModel,
    small_collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store_dtype: Any,
    tolerance: float,
) -> None:
    settings: dict[str, Any] = {"shard_size": 64, "store_dtype": store_dtype, "min_weight": 0.5, "progress": False}
    real, encoded = sparse.encode_sparse, []

    def counting(model: SpladeModel, texts: list[str], **options: Any) -> csr_matrix:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return real(model, texts, **options)

    monkeypatch.setattr(sparse, "encode_sparse", counting)
    with pytest.raises(KeyboardInterrupt):
        encode_collection_sparse(model, small_collection, tmp_path, **settings)
    encoded.clear()
    encode_collection_sparse(model, small_collection, tmp_path, **settings)
    assert encoded == [64, 8]
    doc_ids, found = load_sparse(tmp_path)
    expected = real(model, small_collection.doc_texts(doc_ids), kind="document", min_weight=0.5, progress=False)
    assert (found.dtype, found.shape) == (np.float32, (200, model.dim))
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=tolerance)
    assert f"{found.nnz:,} weights of terms of 200 documents" in str(load_precomputed(tmp_path, model))
    with pytest.raises(BadStoreError, match=r"expected vectors of min_weight 0\.25, found 0\.5"):
        encode_collection_sparse(model, small_collection, tmp_path, **(settings | {"min_weight": 0.25}))


matrices = st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=9)


@given(matrices, matrices, st.integers(1, 10))
def test_search_finds_what_the_dense_product_finds(docs: list[list[int]], queries: list[list[int]], k: int) -> None:
    doc_ids = [f"d{row}" for row in np.random.default_rng(0).permutation(len(docs))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_QUERY_BLOCK", 2)
        index = SparseIndex.build(csr_matrix(np.array(docs, np.float32)), doc_ids)
        weights = csr_matrix(np.array(queries, np.float32))
        run = index.search({f"q{row}": weights[row] for row in range(len(queries))}, k)
    for row, scores in enumerate(np.array(queries) @ np.array(docs).T):
        shared = {doc_id: float(score) for doc_id, score in zip(doc_ids, scores, strict=True) if score > 0}
        assert list(run[f"q{row}"].items()) == ranked(shared, k)


def test_a_saved_index_is_the_same(tmp_path: Path) -> None:
    docs = csr_matrix(np.array([[1, 0, 2], [0, 0, 0], [0, 3, 1]], np.float32))
    index = SparseIndex.build(docs, ["a", "ü", "c d"])
    index.save(tmp_path)
    loaded = load_index(tmp_path)
    assert isinstance(loaded, SparseIndex)
    assert (loaded.doc_ids, loaded.dim, len(loaded)) == (["a", "ü", "c d"], 3, 3)
    query = {"q": csr_matrix(np.array([[0, 1, 1]], np.float32))}
    assert loaded.search(query, 2) == index.search(query, 2) == {"q": {"c d": 4.0, "a": 2.0}}
    with pytest.raises(BadStoreError, match="format rankdistill-token-index/1, found rankdistill-sparse-index/1"):
        TokenIndex.load(tmp_path)


def test_input_that_cannot_be_indexed_or_searched() -> None:
    docs = csr_matrix(np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="expected as many ids as documents, found 1 and 2"):
        SparseIndex.build(docs, ["a"])
    index = SparseIndex.build(docs, ["a", "b"])
    with pytest.raises(ValueError, match="expected k of at least 1"):
        index.search({}, 0)
    with pytest.raises(ValueError, match="expected queries of 2 terms, found 3"):
        index.search({"q": csr_matrix((1, 3), dtype=np.float32)}, 1)


def test_search_reranking_and_folders_agree(
    model: SpladeModel, small_collection: Collection, tiny_sentence_transformer_dir: Path, tmp_path: Path
) -> None:
    from rankdistill.models.dot import DotModel

    queries = dict(list(small_collection.queries())[:4])
    index = build_index(model, small_collection.docs(), progress=False)
    run = search(model, index, queries, k=20, progress=False)
    found = load_precomputed(precompute(model, small_collection, tmp_path, progress=False), model)
    for precomputed in (None, found):
        again = rerank(model, small_collection, run, precomputed=precomputed, progress=False)
        for query_id, scores in run.items():
            assert len(scores) == 20
            assert again[query_id] == pytest.approx(scores, rel=1e-4)
    dot = DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    with pytest.raises(WrongModelError, match="found a SparseIndex and a dot model"):
        search(dot, index, queries, progress=False)
    with pytest.raises(ValueError, match="expected a sparse model for --min-weight, found a dot model"):
        precompute(dot, small_collection, tmp_path / "dot", min_weight=0.1)
    with pytest.raises(ValueError, match=r"states of tokens for --centroids, found .* weights of terms"):
        index_of(found, num_centroids=4)
