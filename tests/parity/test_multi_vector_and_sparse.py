"""ColBERT and SPLADE students are sentence-transformers' multi-vector and sparse encoders, with the same scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankdistill.models.colbert import ColbertModel, Expansion
from rankdistill.models.loading import load_model
from rankdistill.models.splade import SpladeModel
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.sparse import encode_sparse

QUERIES = ["sort a list", "read a file, line by line", "x", ""]
DOCS = [
    "a list of dictionaries: sorted by value; in descending order",
    "open(path).readlines()",
    "x",
    "",
    "...",
    "y " * 90,
]


def our_scores(model: Any) -> np.ndarray:
    queries = [query for query in QUERIES for _ in DOCS]
    return score_pairs(model, queries, DOCS * len(QUERIES), progress=False).reshape(len(QUERIES), len(DOCS))


def their_scores(model: Any) -> np.ndarray:
    encoded = model.encode_query(QUERIES), model.encode_document(DOCS)
    return np.asarray(model.similarity(*encoded).cpu())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize": False, "expansion": None, "skip_words": (".", "(", "nonsense-word")},
        {"expansion": Expansion("fixed", 16, attend=False), "query_max_length": 16, "markers": True},
        {"expansion": Expansion("min", 6), "query_max_length": 12, "doc_max_length": 20, "skip_words": ("list",)},
    ],
    ids=["default", "as matchmaker", "as ColBERT", "min"],
)
def test_a_multi_vector_encoder_is_what_we_save(tmp_path: Path, tiny_bert_dir: Path, settings: dict[str, Any]) -> None:
    from sentence_transformers import MultiVectorEncoder

    torch.manual_seed(0)
    given: dict[str, Any] = {"expansion": Expansion("fixed", 24), "query_max_length": 24} | settings
    model = ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8, **given)
    model.save_pretrained(tmp_path / "ours")
    theirs = MultiVectorEncoder(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(our_scores(model), their_scores(theirs), atol=1e-4)
    again = load_model(tmp_path / "ours", device="cpu")
    assert isinstance(again, ColbertModel)
    assert again.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(our_scores(again), our_scores(model))
    # What they save of it has no rankdistill.json.
    theirs.save_pretrained(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "rankdistill.json").unlink(missing_ok=True)
    back = load_model(tmp_path / "theirs", device="cpu")
    assert isinstance(back, ColbertModel)
    assert back.own_config() == model.own_config()
    np.testing.assert_allclose(our_scores(back), our_scores(model), atol=1e-5)


@pytest.mark.parametrize("strategy", ["before-sep", "after-sep"])
def test_they_refuse_queries_that_they_cannot_make(tmp_path: Path, tiny_bert_dir: Path, strategy: Any) -> None:
    from sentence_transformers import MultiVectorEncoder

    model = ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8, expansion=Expansion(strategy, 4))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="strategy"):
        MultiVectorEncoder(str(tmp_path), device="cpu")
    again = load_model(tmp_path, device="cpu")
    np.testing.assert_array_equal(our_scores(again), our_scores(model))


def test_a_fresh_encoder_of_theirs_is_one_of_ours(tmp_path: Path, tiny_bert_dir: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    theirs = MultiVectorEncoder(str(tiny_bert_dir), device="cpu")
    theirs.prompts = {"query": "query: ", "document": "passage: "}
    theirs.save_pretrained(str(tmp_path))
    ours = load_model(tmp_path, device="cpu")
    assert isinstance(ours, ColbertModel)
    assert (ours.dim, ours.normalize, ours.expansion, ours.skip_words) == (128, True, None, ())
    np.testing.assert_allclose(our_scores(ours), their_scores(theirs), atol=1e-4)


def test_modules_that_we_do_not_know_are_refused(tmp_path: Path, tiny_bert_dir: Path) -> None:
    from rankdistill.errors import BadDataError

    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    pooling = {"idx": 4, "name": "4", "path": "4", "type": "a.b.HierarchicalTokenPooling"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, pooling]))
    with pytest.raises(BadDataError, match='found a module "HierarchicalTokenPooling"'):
        ColbertModel.from_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([modules[0], *modules[2:]]))
    with pytest.raises(BadDataError, match="expected a module Dense, found none"):
        ColbertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("new_head", [False, True])
def test_a_sparse_encoder_is_what_we_save(
    tmp_path: Path, tiny_bert_dir: Path, tiny_mlm_dir: Path, new_head: bool
) -> None:
    from sentence_transformers import SparseEncoder
    from transformers import AutoModelForMaskedLM

    body = tiny_bert_dir if new_head else tiny_mlm_dir
    torch.manual_seed(0)
    model = SpladeModel.from_pretrained(body, device="cpu", new_head=new_head, doc_max_length=40)
    model.query_max_length = 40  # theirs has one length for both
    model.save_pretrained(tmp_path / "ours")
    theirs = SparseEncoder(str(tmp_path / "ours"), device="cpu")
    assert theirs.similarity_fn_name == "dot"
    weights = encode_sparse(model, DOCS, kind="document", progress=False)
    np.testing.assert_allclose(weights.toarray(), theirs.encode_document(DOCS).to_dense().numpy(), atol=1e-4)
    np.testing.assert_allclose(our_scores(model), their_scores(theirs), rtol=1e-4, atol=1e-3)
    again = load_model(tmp_path / "ours", device="cpu")
    assert isinstance(again, SpladeModel)
    assert again.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(our_scores(again), our_scores(model))
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    theirs.save_pretrained(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "rankdistill.json").unlink(missing_ok=True)
    back = load_model(tmp_path / "theirs", device="cpu")
    assert isinstance(back, SpladeModel)
    np.testing.assert_allclose(our_scores(back), our_scores(model), rtol=1e-5)


def test_a_fresh_sparse_encoder_of_theirs_is_one_of_ours(tmp_path: Path, tiny_mlm_dir: Path) -> None:
    from sentence_transformers import SparseEncoder

    theirs = SparseEncoder(str(tiny_mlm_dir), device="cpu")
    theirs.prompts = {"query": "query: ", "document": "passage: "}
    theirs.save_pretrained(str(tmp_path))
    ours = load_model(tmp_path, device="cpu")
    assert isinstance(ours, SpladeModel)
    np.testing.assert_allclose(our_scores(ours), their_scores(theirs), rtol=1e-4, atol=1e-3)
