"""ColBERT and SPLADE students are sentence-transformers' multi-vector and sparse encoders, with the same scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankdistill.errors import WrongModelError
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
    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    pooling = {"idx": 4, "name": "4", "path": "4", "type": "a.b.HierarchicalTokenPooling"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, pooling]))
    with pytest.raises(WrongModelError, match=r'found a module "a.b.HierarchicalTokenPooling"'):
        ColbertModel.from_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([modules[0], *modules[2:]]))
    with pytest.raises(WrongModelError, match="found the modules Transformer, MultiVectorMask, Normalize"):
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


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "more", "found"),
    [
        ("1_SpladePooling/config.json", {"pooling_strategy": "sum"}, "the pooling_strategy sum"),
        ("1_SpladePooling/config.json", {"activation_function": "log1p_relu"}, "the activation_function log1p_relu"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "cosine"}, "the similarity cosine"),
        ("config_sentence_transformers.json", {"max_active_dims": 8}, "max_active_dims 8"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "a Transformer with do_lower_case True"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "feature-extraction"},
            "a Transformer with transformer_task 'feature-extraction'",
        ),
    ],
)
def test_a_sparse_encoder_that_does_more_is_refused(
    tmp_path: Path, tiny_mlm_dir: Path, file: str, more: dict[str, Any], found: str
) -> None:
    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    change(tmp_path / file, **more)
    with pytest.raises(WrongModelError, match=f"found .*{found}"):
        load_model(tmp_path, device="cpu")


def test_a_transformer_without_a_task_gives_states(tmp_path: Path, tiny_mlm_dir: Path) -> None:
    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    (tmp_path / "sentence_bert_config.json").write_text("{}")
    with pytest.raises(WrongModelError, match="found the transformer_task feature-extraction"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["SparseStaticEmbedding", "Router", "SparseAutoEncoder"])
def test_sparse_encoders_of_other_modules_are_refused(tmp_path: Path, tiny_mlm_dir: Path, name: str) -> None:
    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["type"] = f"sentence_transformers.sparse_encoder.modules.{name}"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(WrongModelError, match=f"found the modules Transformer, {name}"):
        load_model(tmp_path, device="cpu")
    modules[1]["type"] = "stranger.SpladePooling"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(WrongModelError, match=r'found a module "stranger.SpladePooling" that is not part'):
        load_model(tmp_path, device="cpu")


def test_a_sparse_encoder_has_a_length_for_each_side(tmp_path: Path, tiny_mlm_dir: Path) -> None:
    from sentence_transformers import SparseEncoder

    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    change(tmp_path / "sentence_bert_config.json", query_length=5, document_length=20)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.sparse_encoder.modules.mlm_transformer.MLMTransformer"  # before 5.4
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    ours, theirs = load_model(tmp_path, device="cpu"), SparseEncoder(str(tmp_path), device="cpu")
    np.testing.assert_allclose(our_scores(ours), their_scores(theirs), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("file", "more", "found"),
    [
        ("1_Dense/config.json", {"module_output_name": "vector"}, "a Dense of vector"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["query", "document"]}, "with skiplist_tasks"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [7]}, r"with keep_only_token_ids \[7\]"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "meanmaxsim"}, "the similarity meanmaxsim"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "a Transformer with do_lower_case True"),
        (
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "min", "length": 6, "token": "x"}},
            "states filled in for the token x",
        ),
    ],
)
def test_a_multi_vector_encoder_that_does_more_is_refused(
    tmp_path: Path, tiny_bert_dir: Path, file: str, more: dict[str, Any], found: str
) -> None:
    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    change(tmp_path / file, **more)
    with pytest.raises(WrongModelError, match=f"found .*{found}"):
        load_model(tmp_path, device="cpu")


def test_settings_of_a_multi_vector_encoder_are_read_as_there(tmp_path: Path, tiny_bert_dir: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(tmp_path)
    (tmp_path / "rankdistill.json").unlink()
    (tmp_path / "3_Normalize" / "config.json").write_text("{}")  # of vectors, of which there are none
    expansion = {"strategy": "min", "length": 16}
    change(tmp_path / "sentence_bert_config.json", query_expansion=expansion, query_length=20, document_length=12)
    ours, theirs = load_model(tmp_path, device="cpu"), MultiVectorEncoder(str(tmp_path), device="cpu")
    np.testing.assert_allclose(our_scores(ours), their_scores(theirs), atol=1e-3)
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "modules.json").unlink()
    change(tmp_path / "config.json", architectures=["HF_ColBERT"])
    with pytest.raises(WrongModelError, match=r"found HF_ColBERT; save it once with"):
        load_model(tmp_path, device="cpu")
