"""PreTT: the split encoder equals the whole one with masks, whatever the batch, and its states can be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
)

from rankdistill.errors import WrongModelError
from rankdistill.models.loading import load_model
from rankdistill.models.prett import PrettBody, PrettModel
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.states import encode_states, score_state_pairs
from tests.reference.prett import prett_score

QUERIES = ["sort a list", "x", "read a file line by line into a list of strings", "", "reverse a string"]
DOCS = ["sorted(a)", "open(path).readlines()", "a" * 90, "", "s[::-1] # the string in reverse, made by a slice"]
SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.5}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (BertConfig, SHAPE | {"hidden_size": 32, "intermediate_size": 64}),
    "electra": (ElectraConfig, SHAPE | {"hidden_size": 32, "intermediate_size": 64, "embedding_size": 16}),
    "roberta": (RobertaConfig, SHAPE | {"hidden_size": 32, "intermediate_size": 64, "type_vocab_size": 1}),
    "mpnet": (MPNetConfig, SHAPE | {"hidden_size": 32, "intermediate_size": 64}),
    "distilbert": (
        DistilBertConfig,
        {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2}
        | {"max_position_embeddings": 64, "initializer_range": 0.5},
    ),
}


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Any:
    """A function from a family to a random encoder's folder."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
            kind, settings = CONFIGS[family]
            config: PretrainedConfig = kind(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **settings)
            made[family] = tmp_path_factory.mktemp(family)
            torch.manual_seed(5)
            AutoModel.from_config(config).save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return folder


def make(folder: Path, **settings: Any) -> PrettModel:
    torch.manual_seed(1)
    lengths = {"query_max_length": 12, "doc_max_length": 40}
    return PrettModel.from_pretrained(folder, device="cpu", **(lengths | settings))


def twin_scores(model: PrettModel) -> list[float]:
    ids = zip(model.tokenize(QUERIES, "query"), model.tokenize(DOCS, "document"), strict=True)
    return [prett_score(model.body, query_ids, doc_ids) for query_ids, doc_ids in ids]


@pytest.mark.parametrize("compress_dim", [None, 8])
@pytest.mark.parametrize("join_layer", [0, 1, 2])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "roberta"])
def test_apart_and_then_joint_equals_one_masked_pass(
    encoder_dir: Any, family: str, join_layer: int, compress_dim: int | None
) -> None:
    model = make(encoder_dir(family), join_layer=join_layer, compress_dim=compress_dim)
    assert model.dim == (compress_dim or 32)
    scores = score_pairs(model, QUERIES, DOCS, progress=False)
    np.testing.assert_allclose(scores, twin_scores(model), rtol=1e-5, atol=1e-5)
    few = score_pairs(model, QUERIES, DOCS, batch_tokens=8, progress=False)
    np.testing.assert_allclose(few, scores, rtol=1e-5, atol=1e-5)
    assert scores.std() > 1e-3


def batch_of(model: PrettModel, extra_padding: int = 0) -> dict[str, torch.Tensor]:
    """Two rows of two docs each, of four distinct docs, as a `TowerSource` gives them."""
    batch = {}
    for side, texts in (("query", QUERIES[:2]), ("doc", DOCS[:4])):
        ids = model.tokenize(texts, "query" if side == "query" else "document")
        longest = max(map(len, ids)) + extra_padding
        batch[f"{side}_ids"] = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        batch[f"{side}_mask"] = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return batch | {"doc_columns": torch.tensor([[0, 3], [2, 1]])}


@pytest.mark.parametrize("compress_dim", [None, 8])
def test_training_gives_the_scores_of_kept_states_whatever_the_padding(
    encoder_dir: Any, compress_dim: int | None
) -> None:
    model = make(encoder_dir("bert"), compress_dim=compress_dim)
    kept = encode_states(model, DOCS, kind="document", progress=False)
    assert kept.states.shape[1] == model.dim
    assert kept.lengths(np.arange(5)).tolist() == [len(ids) - 1 for ids in model.tokenize(DOCS, "document")]
    rows = np.array([0, 0, 1, 1]), np.array([0, 3, 2, 1])
    scores = score_state_pairs(model, QUERIES[:2], [], *rows, doc_states=kept, progress=False)
    for padding in (0, 5):
        found = model(batch_of(model, padding))
        assert not found.in_batch
        np.testing.assert_allclose(found.scores.detach().numpy().ravel(), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_gradient_reaches_every_weight(encoder_dir: Any, family: str) -> None:
    model = make(encoder_dir(family), compress_dim=8)
    model(batch_of(model)).scores.sum().backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.abs().sum() > 0, name


def test_a_checkpoint_gives_the_same_scores_and_its_body_loads_alone(encoder_dir: Any, tmp_path: Path) -> None:
    model = make(encoder_dir("distilbert"), num_layers=2, compress_dim=8)
    assert (model.config.encoder.num_hidden_layers, model.config.join_layer) == (2, 1)
    scores = score_pairs(model, QUERIES, DOCS, progress=False)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert isinstance(again, PrettModel)
    assert again.fingerprint() == model.fingerprint()
    assert again.own_config() == model.own_config()
    np.testing.assert_array_equal(score_pairs(again, QUERIES, DOCS, progress=False), scores)
    body, tokenizer = PrettBody.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    query, doc = tokenizer(QUERIES[0], return_tensors="pt"), tokenizer(DOCS[0], return_tensors="pt")
    with torch.inference_mode():
        alone = body(query.input_ids, query.attention_mask, doc.input_ids, doc.attention_mask)
    np.testing.assert_allclose(alone.numpy(), scores[:1], rtol=1e-5)


def test_weights_of_the_encoder_are_kept(encoder_dir: Any) -> None:
    encoder = AutoModel.from_pretrained(encoder_dir("bert"))
    for name, weights in make(encoder_dir("bert")).body.encoder.named_parameters():
        assert torch.equal(weights, encoder.get_parameter(name)), name


def test_fingerprints_tell_splits_apart(encoder_dir: Any) -> None:
    fingerprints = {make(encoder_dir("bert"), join_layer=layer).fingerprint() for layer in (0, 1, 2)}
    fingerprints.add(make(encoder_dir("bert"), query_max_length=13).fingerprint())
    assert len(fingerprints) == 4


def test_a_family_that_cannot_be_split_is_refused(encoder_dir: Any) -> None:
    with pytest.raises(
        WrongModelError, match=r"can be split \(bert, .*found one of the family mpnet; start from another"
    ):
        make(encoder_dir("mpnet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"join_layer": 3}, r"join_layer=3 does not exist: of 3 layers, 0 to 2 can read the texts apart"),
        (
            {"doc_max_length": 54},
            r"query_max_length=12 and doc_max_length=54 need 65 positions .* has 64; take shorter",
        ),
    ],
)
def test_what_the_encoder_cannot_do(encoder_dir: Any, settings: dict[str, int], message: str) -> None:
    assert make(encoder_dir("bert"), join_layer=2, doc_max_length=53).doc_max_length == 53
    with pytest.raises(ValueError, match=message):
        make(encoder_dir("bert"), **settings)


@pytest.mark.parametrize(
    "asked",
    [{"join_layer": 2}, {"num_layers": 2}, {"compress_dim": 8}, {"query_max_length": 13}],
)
def test_a_checkpoint_is_not_split_anew(encoder_dir: Any, tmp_path: Path, asked: dict[str, int]) -> None:
    make(encoder_dir("bert")).save_pretrained(tmp_path)
    name, value = next(iter(asked.items()))
    with pytest.raises(ValueError, match=f"{name}={value} was asked for, and .* was trained with .*; ask for that"):
        make(tmp_path, **asked)


def test_other_students_do_not_start_from_it(encoder_dir: Any, tmp_path: Path) -> None:
    from rankdistill.models.dot import DotModel

    make(encoder_dir("bert")).save_pretrained(tmp_path)
    with pytest.raises(
        WrongModelError, match="expected an encoder of transformers, found a prett student of rankdistill"
    ):
        DotModel.from_pretrained(tmp_path)
