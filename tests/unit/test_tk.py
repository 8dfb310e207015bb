"""TK: golden kernel scores, equal to its slow twin whatever the batch, over words and over word pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from rankdistill.data.tokens import build_tokens, tokenizer_fingerprint
from rankdistill.errors import WrongModelError
from rankdistill.models.loading import load_model
from rankdistill.models.tk import Aggregation, TKBody, TKConfig, TKModel, positions
from rankdistill.models.words import distinct_words, word_tokenizer
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.states import encode_states, score_state_pairs
from tests.reference.tk import MU, log_and_length_score, log_score, position, tk_score

WORDS = ["sort", "a", "list", "in", "reverse", "order", "file", "read", "(", ")", ".", "=", "open", "sorted", "path"]
QUERIES = ["sort a list", "", "READ a file in unheard of ways", "reverse order", "a"]
DOCS = ["sorted(a)", "open(path).read()", "", "x = sort(list, reverse=True) in order", "list = list"]
BOTH: list[Aggregation] = ["log", "log+length"]


def make(aggregation: Aggregation = "log", width: int = 8, **shape: Any) -> TKModel:
    vectors = np.random.default_rng(3).normal(size=(len(WORDS), width)).astype(np.float32)
    torch.manual_seed(2)
    shape = {"num_layers": 2, "num_heads": 2, "feed_forward": 12} | shape
    model = TKModel.from_words(
        WORDS, vectors, device="cpu", aggregation=aggregation, query_max_length=6, doc_max_length=12, **shape
    )
    with torch.no_grad():  # away from the values that all weights of a kind begin with
        model.body.mix.fill_(0.3)
        for weights in model.body.kernels.parameters():
            weights.add_(torch.rand_like(weights))
    return model


def test_golden_kernel_scores() -> None:
    # Recomputed with numpy from the published formula (matchmaker's ecai20_tk.py); its kernels, alpha 1, w = .01.
    golden = [-23.025847, -23.525298, -14.42111, -4.499996, -2.5, -8.499447, -19.92111]
    golden += [-23.025847, -25.025851, -31.025851, -41.025851]
    cosines = torch.tensor([[[1, 0.5, 0], [0.2, -0.3, 0.9]]])
    masks = torch.tensor([[1, 1]]), torch.tensor([[1, 1, 0]])
    body = TKBody(TKConfig(vocab_size=2, hidden_size=4, num_heads=2))
    for kernel, expected in enumerate(golden):
        with torch.no_grad():
            body.kernels.weights.zero_()[kernel] = 1.0
        assert body.pool(cosines, *masks).item() == pytest.approx(expected, abs=2e-5)
    with torch.no_grad():
        body.kernels.weights.fill_(0.01)
    assert body.pool(cosines, *masks).item() == pytest.approx(-2.164962, abs=1e-6)
    assert body.centres.tolist() == pytest.approx(MU)


@pytest.mark.parametrize("dim", [4, 8, 300])
def test_positions_are_sines_then_cosines(dim: int) -> None:
    expected = [position(at, dim) for at in range(500, 507)]
    np.testing.assert_allclose(positions(500, 7, dim).numpy(), expected, atol=1e-4)
    assert positions(0, 3, 5)[:, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("doc_position", [0, 500])
@pytest.mark.parametrize("aggregation", BOTH)
def test_batches_of_ragged_texts_equal_the_twin(aggregation: Aggregation, doc_position: int) -> None:
    model = make(aggregation, doc_position=doc_position)
    weights = {name: tensor.double().numpy() for name, tensor in model.body.state_dict().items()}
    queries, docs = model.tokenize(QUERIES, "query"), model.tokenize(DOCS, "document")
    assert min(map(len, queries)) == min(map(len, docs)) == 0
    pairs = [(q, d) for q in range(5) for d in range(5)]
    expected = [tk_score(weights, model.config, queries[q], docs[d]) for q, d in pairs]
    found = score_pairs(model, [QUERIES[q] for q, _ in pairs], [DOCS[d] for _, d in pairs], progress=False)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert [found[pair] for pair, (q, _) in enumerate(pairs) if q == 1] == [0] * 5
    few = score_pairs(model, QUERIES[:3], DOCS[:3], batch_tokens=1, progress=False)
    np.testing.assert_allclose(few, [found[pair] for pair, (q, d) in enumerate(pairs) if q == d < 3], rtol=1e-5)
    assert score_pairs(model, [""], [""], progress=False).tolist() == [0]


cosine = st.floats(-1, 1, width=32)


@settings(max_examples=50)
@given(data=st.data(), num_query=st.integers(1, 4), num_doc=st.integers(0, 5), aggregation=st.sampled_from(BOTH))
def test_kernels_equal_their_twin_and_masked_words_add_nothing(
    data: st.DataObject, num_query: int, num_doc: int, aggregation: Aggregation
) -> None:
    body = make(aggregation).body
    cosines = data.draw(
        st.lists(st.lists(cosine, min_size=num_doc, max_size=num_doc), min_size=num_query, max_size=num_query)
    )
    query_mask = data.draw(st.lists(st.integers(0, 1), min_size=num_query, max_size=num_query))
    doc_mask = data.draw(st.lists(st.integers(0, 1), min_size=num_doc, max_size=num_doc))
    matrix = torch.tensor(cosines).view(1, num_query, num_doc)
    masks = torch.tensor([query_mask]), torch.tensor([doc_mask], dtype=torch.long)
    score = body.pool(matrix, *masks).item()
    kernels = {name: weights.tolist() for name, weights in body.kernels.state_dict().items()}
    if aggregation == "log":
        expected = log_score(cosines, query_mask, doc_mask, kernels["scales"], kernels["weights"])
    else:
        weights = kernels["log_weights"], kernels["length_weights"], kernels["scale"], kernels["both.weight"][0]
        expected = log_and_length_score(cosines, query_mask, doc_mask, *weights)
    assert score == pytest.approx(expected, rel=1e-4, abs=1e-4)
    noise = torch.where((masks[0].unsqueeze(2) * masks[1].unsqueeze(1)).bool(), matrix, torch.tensor(0.123))
    assert body.pool(noise, *masks).item() == pytest.approx(score, rel=1e-5, abs=1e-5)
    order = torch.tensor(data.draw(st.permutations(range(num_doc))), dtype=torch.long)
    moved = body.pool(matrix[:, :, order], masks[0], masks[1][:, order]).item()
    assert moved == pytest.approx(score, rel=1e-5, abs=1e-5)


def batch_of(model: TKModel, extra_padding: int = 0) -> dict[str, torch.Tensor]:
    """Two rows of two docs each, of four distinct docs, as a `TowerSource` gives them; the first doc is empty."""
    batch = {}
    for side, texts in (("query", [QUERIES[0], QUERIES[2]]), ("doc", [DOCS[2], DOCS[0], DOCS[1], DOCS[3]])):
        ids = model.tokenize(texts, "query" if side == "query" else "document")
        longest = max(map(len, ids)) + extra_padding
        batch[f"{side}_ids"] = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        batch[f"{side}_mask"] = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return batch | {"doc_columns": torch.tensor([[0, 3], [2, 1]])}


def test_embeddings_of_an_encoder_are_not_drowned_by_positions(tiny_bert_dir: Path) -> None:
    """They keep their directions, and get the length of what the Transformer makes of them, or the one that is asked for."""
    encoder = AutoModel.from_pretrained(tiny_bert_dir)
    own = encoder.get_input_embeddings().weight.detach()
    asked = TKModel.from_pretrained(
        tiny_bert_dir, device="cpu", num_heads=2, vector_length=3.0
    ).body.embeddings.weight.detach()
    assert asked.norm(dim=1).mean() == pytest.approx(3.0, rel=1e-5)
    torch.testing.assert_close(asked / asked.norm(), own / own.norm())
    ids = torch.tensor([[7, 8, 9]])
    mask = torch.ones_like(ids)
    model = TKModel.from_pretrained(tiny_bert_dir, device="cpu", num_heads=2)
    drowned = TKModel.from_pretrained(tiny_bert_dir, device="cpu", num_heads=2, vector_length=0.01)
    drowned.body.layers.load_state_dict(model.body.layers.state_dict())
    moved = ids.flip(1)  # the same words elsewhere: each one's nearest is itself, and not what stands in its place
    for student, nearest in ((model, [2, 1, 0]), (drowned, [0, 1, 2])):
        here, there = (student.states(tokens, mask, "document")[0][0] for tokens in (ids, moved))
        assert (here @ there.T).argmax(1).tolist() == nearest


def test_word_vectors_are_scaled_only_when_asked() -> None:
    vectors = np.random.default_rng(3).normal(size=(2, 4)).astype(np.float32)
    plain = TKModel.from_words(["a", "b"], vectors, device="cpu", num_heads=2).body.embeddings.weight
    np.testing.assert_array_equal(plain[2:].detach(), vectors)
    scaled = TKModel.from_words(
        ["a", "b"], vectors, device="cpu", num_heads=2, vector_length=2.0
    ).body.embeddings.weight
    assert scaled[2:].norm(dim=1).mean().item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="to become 0"):
        TKModel.from_words(["a", "b"], vectors, device="cpu", num_heads=2, vector_length=0.0)
    with pytest.raises(ValueError, match="expected word vectors"):
        TKModel.from_words(["a", "b"], np.zeros_like(vectors), device="cpu", num_heads=2, vector_length=1.0)


@pytest.mark.parametrize("aggregation", BOTH)
def test_training_gives_the_scores_of_kept_states_whatever_the_padding(aggregation: Aggregation) -> None:
    model = make(aggregation)
    kept = encode_states(model, [DOCS[2], DOCS[0], DOCS[1], DOCS[3]], kind="document", progress=False)
    np.testing.assert_allclose(np.linalg.norm(kept.states, axis=1), 1, rtol=1e-5)
    rows = np.array([0, 0, 1, 1]), np.array([0, 3, 2, 1])
    scores = score_state_pairs(model, [QUERIES[0], QUERIES[2]], [], *rows, doc_states=kept, progress=False)
    for padding in (0, 5):
        found = model(batch_of(model, padding))
        assert not found.in_batch
        np.testing.assert_allclose(found.scores.detach().numpy().ravel(), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aggregation", BOTH)
def test_gradient_reaches_every_weight(aggregation: Aggregation) -> None:
    model = make(aggregation)
    scores = model(batch_of(model)).scores
    (scores[:, 0] - scores[:, 1]).square().sum().backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert torch.isfinite(weights.grad).all(), name
        assert weights.grad.abs().sum() > 0, name


def test_kernels_are_computed_in_fp32_under_autocast() -> None:
    model = make(width=32, num_layers=0)
    batch = batch_of(model)
    exact = model(batch).scores
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(batch).scores, exact)


def test_a_checkpoint_gives_the_same_scores_and_its_body_loads_alone(tmp_path: Path) -> None:
    model = make("log+length", doc_position=500)
    scores = score_pairs(model, QUERIES, DOCS, progress=False)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert isinstance(again, TKModel)
    assert again.fingerprint() == model.fingerprint()
    assert again.own_config() == model.own_config()
    assert tokenizer_fingerprint(again.tokenizer) == tokenizer_fingerprint(model.tokenizer)
    np.testing.assert_array_equal(score_pairs(again, QUERIES, DOCS, progress=False), scores)
    body, tokenizer = TKBody.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    query, doc = tokenizer(QUERIES[0], return_tensors="pt"), tokenizer(DOCS[0], return_tensors="pt")
    with torch.inference_mode():
        alone = body(query.input_ids, query.attention_mask, doc.input_ids, doc.attention_mask)
    np.testing.assert_allclose(alone.numpy(), scores[:1], rtol=1e-5)


def test_fingerprints_tell_models_apart_whose_weights_are_equal() -> None:
    fingerprints = {make(**shape).fingerprint() for shape in ({}, {"doc_position": 500}, {"num_heads": 4})}
    assert len(fingerprints) == 3


def test_an_encoders_word_pieces_and_input_embeddings(tiny_bert_dir: Path, tmp_path: Path) -> None:
    model = TKModel.from_pretrained(tiny_bert_dir, device="cpu", num_heads=4, query_max_length=6)
    theirs = AutoTokenizer.from_pretrained(tiny_bert_dir)
    table = AutoModel.from_pretrained(tiny_bert_dir).get_input_embeddings().weight
    scale = model.config.hidden_size**0.5 / table.norm(dim=1).mean()
    torch.testing.assert_close(model.body.embeddings.weight, table * scale)
    expected = theirs(QUERIES[0], add_special_tokens=False)["input_ids"]
    assert model.tokenize([QUERIES[0]], "query") == [expected]
    assert len(model.tokenize([" a" * 50], "query")[0]) == model.query_max_length == 6
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert (again.fingerprint(), again.tokenize(QUERIES, "query")) == (
        model.fingerprint(),
        model.tokenize(QUERIES, "query"),
    )


def test_words_are_split_lower_cased_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    model = make()
    assert model.tokenizer.convert_ids_to_tokens(model.tokenize(["Sort.a_LIST"], "query")[0]) == [
        *("sort", ".", "a", "[UNK]", "list"),
    ]
    table = model.body.embeddings.weight
    torch.testing.assert_close(table[1], table[2:].mean(0))
    texts = [("1", DOCS[3]), ("2", ""), ("3", DOCS[1])]
    store = build_tokens(
        texts, model.tokenizer, model.doc_max_length, tmp_path / "docs.rdtokens", fingerprint="f", progress=False
    )
    ids, mask = store.batch(np.array([0, 1, 2]), 0)
    found = [row[used.astype(bool)].tolist() for row, used in zip(ids, mask, strict=True)]
    assert found == model.tokenize([text for _, text in texts], "document")


def test_distinct_words_come_as_the_tokenizer_splits_them_most_frequent_first() -> None:
    texts = ["b A_b", "c a", "B, é"]
    words = distinct_words(texts)
    assert words[:2] == ["b", "a"]
    assert set(words) == {"a", "b", "c", "_", ",", "é"}
    assert not any(1 in row for row in word_tokenizer(words)(texts)["input_ids"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_heads": 3}, r"num_heads=3 does not divide the embeddings' width 8; choose one of 1, 2, 4, 8"),
        ({"aggregation": "sum"}, r"aggregation must be one of log, log\+length, not 'sum'"),
    ],
)
def test_shapes_that_do_not_exist(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**shape)


def test_words_and_vectors_must_fit() -> None:
    with pytest.raises(ValueError, match="found 1 distinct of 2 and 2 vectors"):
        TKModel.from_words(["a", "a"], np.zeros((2, 4), np.float32), num_heads=2)


@pytest.mark.parametrize("asked", [{"num_layers": 3}, {"aggregation": "log+length"}, {"num_heads": 4}])
def test_a_checkpoint_keeps_its_shape(tmp_path: Path, asked: dict[str, Any]) -> None:
    make().save_pretrained(tmp_path)
    name, value = next(iter(asked.items()))
    with pytest.raises(
        ValueError, match=rf"{name}={value}".replace("+", r"\+") + " was asked for, and .* was trained with"
    ):
        TKModel.from_pretrained(tmp_path, **asked)
    assert TKModel.from_pretrained(tmp_path, device="cpu", num_layers=2, query_max_length=5).query_max_length == 5


def test_other_students_do_not_start_from_it(tmp_path: Path) -> None:
    from rankdistill.models.prett import PrettModel

    make().save_pretrained(tmp_path)
    with pytest.raises(WrongModelError, match="expected an encoder of transformers, found a tk student of rankdistill"):
        PrettModel.from_pretrained(tmp_path)
