"""Search by MaxSim: exact against all pairs, by shortlist against exact, ties, folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.colbert import ColbertModel, Expansion
from rankdistill.models.dot import DotModel
from rankdistill.records import ranked
from rankdistill.retrieval import token_index
from rankdistill.retrieval.index import build_index, index_of, load_index
from rankdistill.retrieval.precompute import Precomputed
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.search import search
from rankdistill.retrieval.states import TokenStates
from rankdistill.retrieval.token_index import TokenIndex
from tests.reference.maxsim import maxsim


def make_states(seed: int, lengths: list[int], width: int = 4) -> TokenStates:
    generator = np.random.default_rng(seed)
    # Quarters, whose products and sums are exact: what ties by hand ties in any order of summation.
    states = (np.round(4 * generator.normal(size=(sum(lengths), width))) / 4).astype(np.float32)
    return TokenStates(states, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def by_hand(docs: TokenStates, query: np.ndarray) -> dict[str, float]:
    return {
        f"d{row}": maxsim(query.tolist(), [1] * len(query), docs[row].tolist(), [1] * len(docs[row]))
        for row in range(len(docs))
    }


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.integers(1, 9),
    st.sampled_from([1, 20, 1 << 20]),
)
def test_exact_search_is_what_the_twin_says(
    seed: int, doc_lengths: list[int], query_lengths: list[int], k: int, budget: int
) -> None:
    docs, queries = make_states(seed, doc_lengths), make_states(seed + 1, query_lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_index, "_MAX_ELEMENTS", budget)
        patch.setattr(token_index, "_QUERY_TOKENS", 4)
        index = TokenIndex.build(docs, [f"d{row}" for row in range(len(docs))])
        run = index.search({f"q{row}": queries[row] for row in range(len(queries))}, k)
    for row in range(len(queries)):
        expected = dict(ranked(by_hand(docs, queries[row]), k))
        assert run[f"q{row}"] == pytest.approx(expected, abs=1e-4)
        values = list(run[f"q{row}"].values())
        assert values == sorted(values, reverse=True)


def test_ties_at_the_cut_are_decided_by_doc_id() -> None:
    docs = TokenStates(np.ones((6, 2), np.float32), np.arange(7))
    index = TokenIndex.build(docs, ["f", "b", "e", "a", "d", "c"])
    assert list(index.search({"q": np.ones((3, 2), np.float32)}, 3)["q"]) == ["a", "b", "c"]


def test_a_shortlist_finds_what_exact_search_finds() -> None:
    # Documents about one of 20 subjects: what centroids are good at.
    generator = np.random.default_rng(0)
    subjects = generator.normal(size=(20, 16))
    lengths = generator.integers(5, 15, size=400)
    topics = np.repeat(generator.integers(20, size=400), lengths)
    states = (subjects[topics] + 0.5 * generator.normal(size=(lengths.sum(), 16))).astype(np.float32)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    docs = TokenStates(states.astype(np.float16), np.concatenate([[0], np.cumsum(lengths)]))
    doc_ids = [f"d{row}" for row in range(400)]
    exact, approximate = (TokenIndex.build(docs, doc_ids, number) for number in (0, 64))
    queries = {f"q{row}": np.asarray(docs[row], np.float32) for row in range(30)}
    expected = exact.search(queries, 10)
    found = approximate.search(queries, 10, shortlist=60, num_probes=4)
    assert np.mean([len(set(found[q]) & set(expected[q])) / 10 for q in queries]) > 0.9
    for query_id, scores in found.items():  # those found have their exact scores
        for doc_id in set(scores) & set(expected[query_id]):
            assert scores[doc_id] == pytest.approx(expected[query_id][doc_id], abs=1e-4)
    whole = approximate.search(queries, 10, shortlist=400, num_probes=64)
    assert all(whole[query_id] == pytest.approx(scores) for query_id, scores in expected.items())


@pytest.mark.parametrize("num_centroids", [0, 7])
def test_a_saved_index_is_the_same(tmp_path: Path, num_centroids: int) -> None:
    docs = make_states(0, [3, 0, 2, 5, 4])
    index = TokenIndex.build(docs, ["a", "ü", "c d", "e", "f"], num_centroids)
    index.save(tmp_path)
    loaded = load_index(tmp_path)
    assert isinstance(loaded, TokenIndex)
    assert (loaded.doc_ids, loaded.dim, len(loaded)) == (index.doc_ids, 4, 5)
    assert (loaded.clusters is None) == (num_centroids == 0)
    query = {"q": make_states(1, [3])[0]}
    assert loaded.search(query, 3) == index.search(query, 3)
    assert isinstance(loaded.states.states, np.memmap)


def test_folders_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(BadStoreError, match=r"expected an index \(index.faiss or index.json\)"):
        load_index(tmp_path)
    with pytest.raises(BadStoreError, match="expected an index of format rankdistill-token-index/1, found None"):
        TokenIndex.load(tmp_path)
    TokenIndex.build(make_states(0, [3, 2]), ["a", "b"]).save(tmp_path)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(BadStoreError, match=r"ids.txt: expected 4 bytes, as index.json says, found 2"):
        TokenIndex.load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": "rankdistill-token-index/2"}))
    with pytest.raises(BadStoreError, match="format rankdistill-token-index/1, found rankdistill-token-index/2"):
        TokenIndex.load(tmp_path)


def test_input_that_cannot_be_indexed_or_searched() -> None:
    docs = make_states(0, [3, 2])
    with pytest.raises(ValueError, match="expected as many ids as documents, found 1 and 2"):
        TokenIndex.build(docs, ["a"])
    with pytest.raises(ValueError, match="expected at least 0 centroids, found -1"):
        TokenIndex.build(docs, ["a", "b"], -1)
    index = TokenIndex.build(docs, ["a", "b"])
    with pytest.raises(ValueError, match="expected k of at least 1"):
        index.search({}, 0)
    with pytest.raises(ValueError, match="expected states of width 4"):
        index.search({"q": np.zeros((1, 3), np.float32)}, 1)
    with pytest.raises(WrongModelError, match=r"expected a model that searches \(dot, colbert.*\), found a prett"):
        index_of(Precomputed(["a", "b"], docs, "prett"))


def test_search_by_a_model_is_reranking_of_all_documents(
    tiny_bert_dir: Path, tiny_sentence_transformer_dir: Path, small_collection: Collection
) -> None:
    torch.manual_seed(0)
    model = ColbertModel.from_pretrained(
        tiny_bert_dir, device="cpu", dim=8, query_max_length=12, expansion=Expansion("fixed", 12)
    )
    queries = dict(list(small_collection.queries())[:4])
    index = build_index(model, small_collection.docs(), progress=False)
    run = search(model, index, queries, k=200, progress=False)
    everything = {query_id: dict.fromkeys(small_collection.doc_ids, 0.0) for query_id in queries}
    expected = rerank(model, small_collection, everything, progress=False)
    for query_id in queries:
        assert run[query_id] == pytest.approx(expected[query_id], abs=1e-4)
    dot = DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    with pytest.raises(WrongModelError, match="found a TokenIndex and a dot model; index what this model encoded"):
        search(dot, index, queries, progress=False)
