"""Every chain of modules that sentence-transformers loads: our vectors, searches and scores are its own, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from transformers import AutoTokenizer

from rankdistill.errors import MissingDependencyError, WrongModelError
from rankdistill.formats.collection import Collection, collection_from_texts
from rankdistill.models.chain import PROVEN_FAMILIES
from rankdistill.models.chain import Pooling as OurPooling
from rankdistill.models.dot import DotModel
from rankdistill.models.foreign import ForeignModel
from rankdistill.models.loading import load_model
from rankdistill.models.pretraining import PretrainModel
from rankdistill.models.similarity import SIMILARITIES, Similarity
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.encode import encode_collection, encode_texts
from rankdistill.retrieval.index import build_index, index_of, load_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank, score_pairs
from rankdistill.retrieval.score import score_resumably
from rankdistill.retrieval.search import search
from rankdistill.retrieval.systems import rank
from rankdistill.training.rows import DenseTeacher
from rankdistill.training.students import new_student
from rankdistill.training.teacher_vectors import cached_query_vectors, cached_vectors
from tests.encoders import save_encoder

WORDS = "Sort a List of Dictionaries by VALUE in python and read each line of the open file"
DOCS = [f"{' '.join(WORDS.split()[i:])} {'how to join two lists ' * (4 * i)}{i}" for i in range(8)] + ["x"]
QUERIES = ["sort a list", "Read the FILE line by line", "x", "how to join " * 30]
PROMPTS = {"query": "query: ", "document": "open the "}
Modules = list[Any]


def _dense(width: int, to: int, activation: Any = None, **more: Any) -> Any:
    return Dense(width, to, activation_function=torch.nn.Identity() if activation is None else activation, **more)


def _body(path: Path, **settings: Any) -> Any:
    return Transformer(str(path), **settings)


def _word_embeddings(path: Path) -> Any:
    words = sorted({word.lower() for text in DOCS + QUERIES for word in text.split()})
    tokenizer = WhitespaceTokenizer(words, stop_words=[], do_lower_case=True)
    return WordEmbeddings(tokenizer, torch.randn(len(words), 32), max_seq_length=20)


def _router(path: Path) -> Any:
    queries = StaticEmbedding(AutoTokenizer.from_pretrained(path), embedding_dim=32)
    return Router.for_query_document([queries], [_body(path), Pooling(32, "mean")])


# Chains that our own code runs.
PACKED: dict[str, Callable[[Path], Modules]] = {
    **{mode: lambda path, mode=mode: [_body(path), Pooling(32, mode)] for mode in ("mean", "cls", "lasttoken")},  # type: ignore[misc]
    "normalize": lambda path: [_body(path), Pooling(32), Normalize()],
    "dense": lambda path: [_body(path), Pooling(32), _dense(32, 8)],
    "dense-normalize": lambda path: [_body(path), Pooling(32, "cls"), _dense(32, 8, bias=False), Normalize()],
}
# Chains that sentence-transformers runs for us.
FOREIGN: dict[str, Callable[[Path], Modules]] = {
    **{
        str(mode): lambda path, mode=mode: [_body(path), Pooling(32, mode), Normalize()]  # type: ignore[misc]
        for mode in ("max", "mean_sqrt_len_tokens", "weightedmean")
    },
    "cls+mean": lambda path: [_body(path), Pooling(32, ("cls", "mean"))],
    "no prompt": lambda path: [_body(path), Pooling(32, include_prompt=False)],
    "two poolings": lambda path: [_body(path), Pooling(32), Pooling(32, "max")],
    "dense-dense-normalize": lambda path: [_body(path), Pooling(32), _dense(32, 8), _dense(8, 8), Normalize()],
    "embedding-gemma": lambda path: [_body(path), Pooling(32), _dense(32, 128), _dense(128, 32), Normalize()],
    "normalize-dense": lambda path: [_body(path), Pooling(32), Normalize(), _dense(32, 8)],
    "tanh": lambda path: [_body(path), Pooling(32), _dense(32, 8, torch.nn.Tanh())],
    "residual": lambda path: [_body(path), Pooling(32), _dense(32, 8, use_residual=True)],
    "dense on tokens": lambda path: [_body(path), _dense(32, 8, module_input_name="token_embeddings"), Pooling(8)],
    "layer norm": lambda path: [_body(path), Pooling(32), LayerNorm(32), Dropout(0.5)],
    "layers": lambda path: [
        _body(path, config_kwargs={"output_hidden_states": True}),
        WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1),
        Pooling(32),
    ],
    "cnn": lambda path: [_body(path), CNN(32, 8, kernel_sizes=[1, 3]), Pooling(16)],
    "lstm": lambda path: [_word_embeddings(path), LSTM(32, 8), Pooling(16)],
    "word weights": lambda path: [
        tokens := _word_embeddings(path),
        WordWeights(tokens.tokenizer.get_vocab(), {"list": 3.0, "file": 0.5}),
        Pooling(32),
    ],
    "static": lambda path: [StaticEmbedding(AutoTokenizer.from_pretrained(path), embedding_dim=32)],
    "bag of words": lambda path: [BoW(["sort", "list", "file", "join", "x"])],
    "router": lambda path: [_router(path), Normalize()],
    "processing": lambda path: [_body(path, processing_kwargs={"text": {"max_length": 9}}), Pooling(32)],
}


@pytest.fixture(scope="module")
def cased_bert_dir(tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path) -> Path:
    """The tiny BERT with a tokenizer to which upper-case letters are unknown, so that lower-casing shows."""
    folder = tmp_path_factory.mktemp("cased")
    for file in tiny_bert_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    return folder


def saved(folder: Path, modules: Modules, prompts: dict[str, str] | None = None, **settings: Any) -> Path:
    """A folder of sentence-transformers."""
    given = PROMPTS if prompts is None else prompts
    SentenceTransformer(modules=modules, device="cpu", prompts=given, **settings).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """The folder with other values in one of its JSON files; None leaves one out."""
    config = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def check(folder: Path, kind: type[DotModel | ForeignModel], *, atol: float = 1e-5) -> DotModel | ForeignModel:
    """All that we make with a folder against what sentence-transformers makes with it."""
    theirs, ours = SentenceTransformer(str(folder), device="cpu"), load_model(folder, device="cpu")
    assert type(ours) is kind
    query_QD, doc_ND = theirs.encode_query(QUERIES), theirs.encode_document(DOCS)
    settings: dict[str, Any] = {"progress": False}
    np.testing.assert_allclose(encode_texts(ours, QUERIES, kind="query", **settings), query_QD, atol=atol)
    np.testing.assert_allclose(encode_texts(ours, DOCS, kind="document", **settings), doc_ND, atol=atol)
    wanted_QN = theirs.similarity(query_QD, doc_ND).numpy()
    scale = max(1.0, float(np.abs(wanted_QN).max()))  # scores of long vectors are exact to their last digits
    pairs = [(query, doc) for query in QUERIES for doc in DOCS]
    found = score_pairs(ours, [query for query, _ in pairs], [doc for _, doc in pairs], **settings)
    np.testing.assert_allclose(found.reshape(wanted_QN.shape) / scale, wanted_QN / scale, atol=1e-5)
    docs = {f"d{i}": doc for i, doc in enumerate(DOCS)}
    run = search(ours, build_index(ours, docs, device="cpu", **settings), dict(enumerate_ids(QUERIES)), **settings)
    for row, scores in enumerate(run.values()):
        in_order = [scores[doc_id] / scale for doc_id in docs]
        np.testing.assert_allclose(in_order, wanted_QN[row] / scale, atol=1e-5)
    return ours


def enumerate_ids(texts: list[str]) -> list[tuple[str, str]]:
    """Texts under the ids q0, q1, …"""
    return [(f"q{i}", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", PACKED)
def test_chains_that_our_own_code_runs(name: str, tmp_path: Path, tiny_bert_dir: Path) -> None:
    torch.manual_seed(1)
    check(saved(tmp_path, PACKED[name](tiny_bert_dir), similarity_fn_name="cosine"), DotModel)


@pytest.mark.parametrize("name", FOREIGN)
def test_chains_that_sentence_transformers_runs(name: str, tmp_path: Path, cased_bert_dir: Path) -> None:
    torch.manual_seed(1)
    folder = saved(tmp_path, FOREIGN[name](cased_bert_dir))
    ours = check(folder, ForeignModel)
    assert ours.fingerprint() == load_model(folder, device="cpu").fingerprint()
    with pytest.raises(WrongModelError, match="no student starts from it") as error:
        DotModel.from_pretrained(folder)
    assert error.value.path == str(folder / "modules.json")


@pytest.mark.parametrize(
    ("name", "similarity"),
    [
        *(("mean", one) for one in SIMILARITIES),
        ("normalize", "euclidean"),
        ("cls+mean", "dot"),
        ("cls+mean", "manhattan"),
    ],
)
def test_scores_are_by_the_similarity_that_the_folder_states(
    name: str, similarity: Similarity, tmp_path: Path, tiny_bert_dir: Path
) -> None:
    torch.manual_seed(1)
    folder = saved(tmp_path, (PACKED | FOREIGN)[name](tiny_bert_dir), similarity_fn_name=similarity)
    ours = check(folder, ForeignModel if name in FOREIGN else DotModel)
    assert ours.similarity == similarity
    ours.save_pretrained(tmp_path / "again")
    assert SentenceTransformer(str(tmp_path / "again"), device="cpu").similarity_fn_name == similarity


def test_without_a_stated_similarity_it_is_the_cosine_as_there(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir))
    edited(folder, "config_sentence_transformers.json", similarity_fn_name=None)
    assert load_model(folder, device="cpu").comparison == "cosine"  # type: ignore[union-attr]
    (folder / "config_sentence_transformers.json").unlink()
    assert check(folder, DotModel).similarity == "cosine"


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "query: ", "passage": "open the "}, None),
        ({"query": "query: ", "document": "", "passage": "open the "}, "passage"),
        ({"passage": "open the ", "corpus": "file "}, "passage"),
        ({"document": "open the "}, "document"),
        ({"other": "sort a "}, "other"),
    ],
)
def test_prompts_are_those_of_encode_query_and_encode_document(
    prompts: dict[str, str], default: str | None, tmp_path: Path, tiny_bert_dir: Path
) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir), prompts)
    check(edited(folder, "config_sentence_transformers.json", default_prompt_name=default, prompts=prompts), DotModel)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_texts_are_cut_on_the_tokenizers_side(name: str, tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, (PACKED | FOREIGN)[name](tiny_bert_dir))
    ours = check(
        edited(folder, "tokenizer_config.json", truncation_side="left"), ForeignModel if name in FOREIGN else DotModel
    )
    right = load_model(edited(folder, "tokenizer_config.json", truncation_side="right"), device="cpu")
    left_ND, right_ND = (encode_texts(model, DOCS, kind="document", progress=False) for model in (ours, right))  # type: ignore[arg-type]
    assert np.abs(left_ND - right_ND).max() > 0.1
    assert ours.fingerprint() != right.fingerprint()


def test_a_prompt_is_only_left_out_where_there_is_one(tmp_path: Path, tiny_bert_dir: Path) -> None:
    check(saved(tmp_path, FOREIGN["no prompt"](tiny_bert_dir), {}), DotModel)


@pytest.mark.parametrize("family", PROVEN_FAMILIES)
def test_families_that_our_own_code_runs(family: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    body = save_encoder(family, tmp_path / "body", tiny_tokenizer_dir)
    check(saved(tmp_path / "saved", PACKED["mean"](body)), DotModel)


@pytest.mark.parametrize("family", ["albert", "t5", "gpt2"])
def test_other_families_are_run_there(family: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoConfig, AutoModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    shapes: dict[str, dict[str, Any]] = {
        "albert": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "embedding_size": 16},
        "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    }
    torch.manual_seed(2)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **shapes[family])
    AutoModel.from_config(config).save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    check(saved(tmp_path / "saved", PACKED["mean"](tmp_path / "body")), ForeignModel)


def test_an_adapter_without_its_base_is_refused(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir))
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(tmp_path / "absent"),
        "task_type": "FEATURE_EXTRACTION",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(WrongModelError, match="found an adapter of peft in the Transformer"):
        DotModel.from_pretrained(folder)
    with pytest.raises(WrongModelError, match="expected a model that sentence-transformers loads"):
        load_model(folder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoders_are_pooled_at_their_last_token(side: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, padding_side=side)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, max_position_embeddings=64, **shape)  # type: ignore[arg-type]
    torch.manual_seed(2)
    LlamaModel(config).save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    check(saved(tmp_path / "saved", PACKED["lasttoken"](tmp_path / "body")), ForeignModel)
    student = DotModel.from_pretrained(tmp_path / "saved", device="cpu")  # such a body may be trained here
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    ours = encode_texts(student, DOCS, kind="document", progress=False)
    np.testing.assert_allclose(ours, theirs.encode_document(DOCS), atol=1e-5)


@pytest.mark.parametrize(("stated", "tokenizers"), [(10, 64), (None, 12), (None, None)])
def test_texts_are_cut_where_they_are_there(
    stated: int | None, tokenizers: int | None, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    # More positions than a plain encoder is read with unless longer texts are asked for.
    body = save_encoder("bert", tmp_path / "body", tiny_tokenizer_dir, max_position_embeddings=600)
    folder = saved(tmp_path / "saved", PACKED["mean"](body))
    edited(folder, "sentence_bert_config.json", max_seq_length=stated)
    edited(folder, "tokenizer_config.json", model_max_length=tokenizers)
    theirs, ours = SentenceTransformer(str(folder), device="cpu"), DotModel.from_pretrained(folder, device="cpu")
    long = ["sort a list of files " * 200, *DOCS]
    np.testing.assert_allclose(
        encode_texts(ours, long, kind="document", progress=False), theirs.encode_document(long), atol=1e-5
    )


def test_each_side_may_have_its_length(tmp_path: Path, tiny_bert_dir: Path) -> None:
    check(saved(tmp_path, [_body(tiny_bert_dir, query_length=6, document_length=11), Pooling(32)]), DotModel)


def test_an_old_layout_is_read(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir))
    flags = {f"pooling_mode_{mode}": mode == "cls_token" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    old = {"word_embedding_dimension": 32, **flags}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    (folder / "sentence_roberta_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": False}))
    (folder / "sentence_bert_config.json").unlink()
    modules = json.loads((folder / "modules.json").read_text())
    names = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    (folder / "modules.json").write_text(
        json.dumps([module | {"type": name} for module, name in zip(modules, names, strict=True)])
    )
    ours = check(folder, DotModel)
    assert isinstance(ours, DotModel)
    assert (ours.pooling, ours.doc_max_length) == ("cls", 9)
    edited(folder, "1_Pooling/config.json", pooling_mode_max_tokens=True)
    check(folder, ForeignModel)


def test_vectors_are_cut_where_the_folder_says_so(tmp_path: Path, tiny_bert_dir: Path) -> None:
    ours = check(saved(tmp_path, PACKED["normalize"](tiny_bert_dir), truncate_dim=5), ForeignModel)
    assert ours.dim == 5


def test_a_dense_module_saved_by_torch_is_read(tmp_path: Path, tiny_bert_dir: Path) -> None:
    torch.manual_seed(1)
    folder = saved(tmp_path, PACKED["dense"](tiny_bert_dir))
    from safetensors.torch import load_file

    (module,) = folder.glob("*_Dense")
    torch.save(load_file(module / "model.safetensors"), module / "pytorch_model.bin")
    (module / "model.safetensors").unlink()
    check(folder, DotModel)


def test_what_sentence_transformers_cannot_load_is_refused(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Module: pass\n")
    (folder / "modules.json").write_text(json.dumps([*modules, modules[1] | {"type": "evil.Module", "idx": 2}]))
    with pytest.raises(WrongModelError, match=r"expected a model that sentence-transformers loads.*evil.Module"):
        load_model(folder)
    assert not (tmp_path / "marker").exists()


def test_without_sentence_transformers_the_install_line_is_given(
    tmp_path: Path, tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, FOREIGN["max"](tiny_bert_dir))
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"runs a Pooling of max, found none installed; pip install"):
        load_model(folder)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_a_prompt_that_leaves_no_room_is_refused(name: str, tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, (PACKED | FOREIGN)[name](tiny_bert_dir), {"query": "list " * 8, "document": ""})
    edited(folder, "sentence_bert_config.json", max_seq_length=10)
    with pytest.raises(
        WrongModelError, match="query_prompt that leaves room for text within 10 tokens, found one that"
    ):
        load_model(folder)
    edited(folder, "sentence_bert_config.json", max_seq_length=11)
    check(folder, ForeignModel if name in FOREIGN else DotModel)


def test_a_students_prompt_that_leaves_no_room_is_refused(tiny_bert_dir: Path) -> None:
    options = MarginMSEOptions(
        scores=("x",), output_dir=Path("x"), init=str(tiny_bert_dir), query_prompt="list " * 30, query_max_length=32
    )
    with pytest.raises(WrongModelError, match="query_prompt that leaves room for text within 32 tokens"):
        new_student(options)


def test_another_prompt_may_take_the_place_of_one_that_is_too_long(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, PACKED["mean"](tiny_bert_dir), {"query": "list " * 30, "document": ""})
    options = MarginMSEOptions(
        scores=("x",), output_dir=Path("x"), init=str(folder), query_prompt="list", query_max_length=32
    )
    student = new_student(options)
    assert isinstance(student, DotModel)
    assert student.query_prompt == "list"
    unchecked = DotModel.from_pretrained(folder, device="cpu", query_max_length=32)
    with pytest.raises(WrongModelError, match="query_prompt that leaves room for text within 32 tokens"):
        encode_texts(unchecked, ["x"], kind="query", progress=False)


@pytest.fixture(scope="module")
def collection() -> Collection:
    """The texts of this file; each query's relevant document is one of them."""
    docs = {f"d{i}": doc for i, doc in enumerate(DOCS)}
    return collection_from_texts(docs, dict(enumerate_ids(QUERIES)), {"q0": {"d0": 1}, "q1": {"d1": 1}})


@pytest.mark.parametrize(("name", "similarity"), [("mean", "cosine"), ("embedding-gemma", "euclidean")])
def test_every_command_uses_the_similarity(
    name: str, similarity: Similarity, tmp_path: Path, tiny_bert_dir: Path, collection: Collection
) -> None:
    torch.manual_seed(1)
    folder = saved(tmp_path / "model", (PACKED | FOREIGN)[name](tiny_bert_dir), similarity_fn_name=similarity)
    theirs, ours = SentenceTransformer(str(folder), device="cpu"), load_model(folder, device="cpu")
    wanted_QN = theirs.similarity(theirs.encode_query(QUERIES), theirs.encode_document(DOCS)).numpy()
    wanted = {f"q{i}": {f"d{j}": float(score) for j, score in enumerate(row)} for i, row in enumerate(wanted_QN)}

    def assert_wanted(run: dict[str, dict[str, float]]) -> None:
        assert {query_id: set(scores) for query_id, scores in run.items()} == {
            query_id: set(wanted["q0"]) for query_id in run
        }
        for query_id, scores in run.items():
            for doc_id, score in scores.items():
                assert score == pytest.approx(wanted[query_id][doc_id], abs=1e-4)

    vectors = precompute(ours, collection, tmp_path / "vectors", progress=False)
    index_of(load_precomputed(vectors, ours), device="cpu").save(tmp_path / "index")
    index = load_index(tmp_path / "index", "cpu", ours)
    queries = dict(collection.queries())
    assert_wanted(search(ours, index, queries, progress=False))
    assert_wanted(rerank(ours, collection, wanted, progress=False))
    assert_wanted(rerank(ours, collection, wanted, precomputed=load_precomputed(vectors, ours), progress=False))
    assert_wanted(rank(str(folder), collection, ["q0", "q1"], device="cpu", faiss_device="cpu", progress=False).run)
    pairs = [(query_id, doc_id) for query_id in wanted for doc_id in wanted[query_id]]
    scores = score_resumably(pairs, collection, str(folder), tmp_path / "partial", device="cpu", progress=False)
    np.testing.assert_allclose(scores, wanted_QN.ravel(), atol=1e-4)
    query_QD, doc_ND = cached_vectors(ours, collection, cache_dir=tmp_path)  # type: ignore[arg-type]
    teacher = DenseTeacher(query_QD, doc_ND, 2.0, ours.comparison)  # type: ignore[union-attr]
    found_QN = teacher.scores(np.arange(len(QUERIES)), np.arange(len(DOCS)))
    np.testing.assert_allclose(found_QN, 2 * wanted_QN, atol=0.05)  # cached in the fast dtype
    np.testing.assert_array_equal(
        cached_query_vectors(str(folder), collection, device="cpu", cache_dir=tmp_path), query_QD
    )
    # An index by another similarity is refused.
    other = SentenceTransformer(str(folder), device="cpu", similarity_fn_name="dot")
    other.save_pretrained(str(tmp_path / "other"), create_model_card=False)
    dot = load_model(tmp_path / "other", device="cpu")
    with pytest.raises(WrongModelError, match=f"expected an index by dot, found one by {similarity}"):
        search(dot, index, queries, progress=False)


def test_a_folder_of_vectors_keeps_to_its_similarity(
    tmp_path: Path, tiny_bert_dir: Path, collection: Collection
) -> None:
    cosine = DotModel.from_pretrained(tiny_bert_dir, device="cpu", similarity="cosine")
    encode_collection(cosine, collection, tmp_path, progress=False)
    assert load_precomputed(tmp_path).similarity == "cosine"
    encode_collection(cosine, collection, tmp_path, progress=False)  # goes on
    dot = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    encode_collection(dot, collection, tmp_path / "dot", progress=False)
    edited(tmp_path / "dot", "manifest.json", similarity=None)  # as before there were others
    encode_collection(dot, collection, tmp_path / "dot", progress=False)
    assert load_precomputed(tmp_path / "dot", dot).similarity == "dot"


def lower_casing(folder: Path, body: Path) -> Path:
    """A folder whose Transformer module puts texts in lower case, as sentence-transformers before 5.4 wrote it."""
    return edited(saved(folder, PACKED["mean"](body)), "sentence_bert_config.json", do_lower_case=True)


def test_a_transformer_that_puts_texts_in_lower_case(tmp_path: Path, cased_bert_dir: Path) -> None:
    folder = lower_casing(tmp_path, cased_bert_dir)
    lower = encode_texts(check(folder, ForeignModel), DOCS, kind="document", progress=False)
    edited(folder, "sentence_bert_config.json", do_lower_case=False)
    as_written = encode_texts(check(folder, DotModel), DOCS, kind="document", progress=False)
    assert np.abs(lower - as_written).max() > 0.1


@pytest.mark.parametrize("student", ["dot", "colbert", "prett", "cross-encoder"])
def test_no_student_starts_from_a_body_that_reads_otherwise(student: Any, tmp_path: Path, tiny_bert_dir: Path) -> None:
    folders = {
        "do_lower_case True": lower_casing(tmp_path / "lower", tiny_bert_dir),
        "BoW": saved(tmp_path / "bag", FOREIGN["bag of words"](tiny_bert_dir)),
    }
    for part, folder in folders.items():
        with pytest.raises(WrongModelError, match=part):
            new_student(MarginMSEOptions(scores=("x",), output_dir=Path("x"), init=str(folder), student=student))


@pytest.mark.parametrize("student", ["colbert", "splade"])
def test_students_go_on_from_folders_of_their_own_kind(student: Any, tmp_path: Path, tiny_mlm_dir: Path) -> None:
    options = MarginMSEOptions(scores=("x",), output_dir=Path("x"), init=str(tiny_mlm_dir), student=student)
    new_student(options).save_pretrained(tmp_path)
    assert new_student(replace(options, init=str(tmp_path))).architecture == student


@pytest.mark.parametrize("student", ["dot", "multi-exit"])
def test_dot_students_start_from_chains_that_are_read_only(student: Any, tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = saved(tmp_path, FOREIGN["embedding-gemma"](tiny_bert_dir))
    with pytest.raises(WrongModelError, match=r"found the modules Transformer, Pooling, Dense, Dense, Normalize"):
        new_student(MarginMSEOptions(scores=("x",), output_dir=Path("x"), init=str(folder), student=student))
    options = MarginMSEOptions(scores=("x",), output_dir=Path("x"), init=str(folder), student="colbert")
    assert new_student(options).architecture == "colbert"  # which needs the body alone


@pytest.mark.parametrize("student", ["dot", "multi-exit"])
@pytest.mark.parametrize(("pooling", "wanted"), [(None, "cls"), ("mean", "mean")])
def test_a_student_keeps_its_starts_pooling(
    student: Any, pooling: OurPooling | None, wanted: str, tmp_path: Path, tiny_bert_dir: Path
) -> None:
    folder = saved(tmp_path, PACKED["cls"](tiny_bert_dir), similarity_fn_name="cosine")
    options = MarginMSEOptions(scores=("x",), output_dir=Path("x"), init=str(folder), student=student, pooling=pooling)
    found = new_student(options)
    assert isinstance(found, DotModel)
    # A dot student is trained by dot product, and says so.
    assert (found.pooling, found.similarity) == (wanted, "dot")
    assert PretrainModel.from_pretrained(folder, pooling=pooling, device="cpu").pooling == wanted
